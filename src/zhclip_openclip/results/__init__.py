"""Results: what is made of the numbers and of each query's answers once a model has been scored."""

.PHONY: help install test slow lint docs picture ci
help:  ## what there is (the default)
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:.*## */\t/' | expand -t 12
install:  ## this folder, editable, with everything that the tests need
	pip install -e ".[test]"
test:  ## the fast tests
	pytest
slow:  ## the full-size tests
	pytest -n 0 -m slow
lint:  ## ruff
	ruff check . && ruff format --check .
docs:  ## write again what the program writes of the docs
	python benchmarks/model_facts.py && python benchmarks/models_page.py
	zhclip classnames --write docs/datasets_classification.md
	python -m zhclip_openclip.datasets.docs docs/reproducing.md
	python -m zhclip_openclip.report.docs docs/leaderboard.md
	python -m zhclip_openclip.export.docs docs/deploying.md
picture:  ## the picture on top of the README
	zhclip reproduce --offline-demo --output /tmp/zhclip-demo
	chromium --headless=new --no-sandbox --hide-scrollbars --screenshot=docs/images/report.png \
		--window-size=1280,1430 file:///tmp/zhclip-demo/report.html
ci:  ## what CI runs, in an environment of its own
	bash .ci/run

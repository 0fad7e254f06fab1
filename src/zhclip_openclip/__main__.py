"""`python -m zhclip_openclip` is `zhclip`."""

from zhclip_openclip.commands import main

if __name__ == "__main__":
    main()

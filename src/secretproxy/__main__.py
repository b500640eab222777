"""`python -m secretproxy` is the `secretproxy` command."""

from secretproxy.cli import main

if __name__ == "__main__":
    main()

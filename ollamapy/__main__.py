"""`python -m ollamapy`: the command line."""

from ollamapy.cli import main

if __name__ == "__main__":
    main()

"""`python -m flowcei` is `flowcei`."""

from flowcei.cli.main import main

main()

"""`python -m fewshot_cli` is `fsl`."""

from fewshot_cli.cli.app import main

main()

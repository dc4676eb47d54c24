"""The job as commands: run, publish, summary. Knows commands and files, neither taps nor models."""

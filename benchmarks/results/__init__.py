"""docs/results.md from the folders of studies: gathered experiments, their tables, the scores that are kept beside the page, and the page."""

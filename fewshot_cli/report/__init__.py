"""What `fsl report` writes: one page that shows a run, or several side by side."""

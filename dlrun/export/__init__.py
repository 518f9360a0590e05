"""Export: a trained network as a file that runs without dlrun, checked against PyTorch before it is called good."""

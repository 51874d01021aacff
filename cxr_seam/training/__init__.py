"""Train both stages.

`losses`, `objectives` and `seam` are the losses and the score that selects the best epoch. `trainer`
trains one epoch, `batch_split` divides batches over processes and micro-batches, `fit` runs whole trainings with
`optim`, `resume` and `storage`.
"""

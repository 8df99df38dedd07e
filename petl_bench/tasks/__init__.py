"""Real tasks: data, metrics, training, scores.

task       what a task is
catalogue  the tasks that there are
labels     what a row says: texts, and what is asked for
adapting   rows of CLUE's that have to be made so first
files      local data: JSON Lines, CSV, Parquet
releases   questions about images, and captions, as they were released
packaged   data and weights that installed packages hold
vision     features of images
hub        data by its id on the Hugging Face hub
splits     train, validation and test of a task, wherever they come from
metrics    scores by scikit-learn and SciPy; of words by text_metrics, of captions by cider
rates      learning rates, method by method
weights    a pretrained backbone's folder
planning   what was asked to a plan
record     one method trained with one seed: the question and the answer
store      such records in a file
answers    what is asked for as text, for backbones that generate
encoding   examples as tokens, and batches of them
scoring    what a model's outputs say, and its scores
quiet      transformers without its messages
energy     joules by NVML
training   THE training run, by transformers' Trainer
running    a plan to records
rows       records that may be compared; a method's seeds together
boards     where each method stands, on a task or on average
tables     records to tables
"""

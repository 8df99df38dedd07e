"""Images, as tasks have them: features made beforehand by an encoder that is not trained.

features       a file of them, and the names of the images
efficientnet   EfficientNet-Lite0, whose weights a package has
"""

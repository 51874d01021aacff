"""Parts of the training that the paper does not have; a recipe switches them on."""

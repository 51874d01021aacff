"""Parts of heat maps and boxes that the paper does not have; a recipe switches them on."""

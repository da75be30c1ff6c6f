"""The figures, one module each: `NAME`, `TITLE`, `table(study)` makes the data and `draw(figure, data, study)` draws them."""

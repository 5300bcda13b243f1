"""What several commands do: data, weights and scores of a training, studies, targets of a view."""

"""The literature, reproduced: one program a paper, each with the claim, our figures, a verdict."""

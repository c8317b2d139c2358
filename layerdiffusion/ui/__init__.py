"""The page: one Gradio interface over `Editor`; nothing here knows the method's maths."""

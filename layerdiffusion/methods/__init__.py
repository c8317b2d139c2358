"""LayerDiffusion, and SDEdit, Imagic and Plug-and-Play as their authors run them, on the same models and edits.

    editor.run(edit, Settings(seeds=(0, 1)), method="pnp", options=options_for("pnp", models, attention_share=0.3))

A file a method: its maths, functions of tensors as in `layerdiffusion.method`, and its list of stages, which
`layerdiffusion.runtime` runs. What can be set about each is in `options`, which needs no torch.
"""

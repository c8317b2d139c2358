"""Calm colours and a typeface that is served from here: the page asks nothing of the network."""

import gradio as gr

ACCENT = gr.themes.Color(
    name="iris",
    c50="#f3f2ff", c100="#e8e5ff", c200="#d3cdff", c300="#b4a9ff", c400="#9180fb", c500="#7358f0",
    c600="#5f3fdc", c700="#4f31b8", c800="#412a94", c900="#372677", c950="#21154d",
)  # fmt: skip
INK = gr.themes.Color(
    name="ink",
    c50="#f7f7fa", c100="#eeeef3", c200="#dfdfe8", c300="#c6c6d4", c400="#9898ac", c500="#6f6f86",
    c600="#555569", c700="#3e3e50", c800="#272735", c900="#1a1a26", c950="#101018",
)  # fmt: skip


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=INK,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        # Gradio's own copy; of its semi-bold, most letters are missing, so that bold stands in for it.
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_size="*text_xs",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_padding="0px",
        panel_background_fill="transparent",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_500",
    )

"""The settings of `make docs`: Sphinx makes a site of docs/*.md as they are.

The site opens from disk without a network. Formulas become MathML, which browsers draw by
themselves, so that no script is loaded for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import NodeMatcher

from cdgen import __version__

project = "cdgen"
version = release = __version__
author = "the cdgen authors"
project_copyright = "the cdgen authors"

sys.path.insert(0, str(Path(__file__).parent))
extensions = ["myst_parser", "sphinx.ext.autodoc", "argument_comments"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"cdgen {version}"
html_copy_source = False
html_show_sphinx = False


class NameFilesOutsideTheSite(SphinxPostTransform):
    """Show the name of a file in place of a link to it, for source files beside docs/.

    On the repository's web page the same link opens the file; the site does not hold it.
    """

    default_priority = 5  # before MyST looks for the link's target

    def run(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(NodeMatcher(addnodes.download_reference))):
            link.replace_self(link.children)
        for link in list(self.document.findall(NodeMatcher(addnodes.pending_xref))):
            if link.get("refdomain") == "doc" and self._is_outside(link["reftarget"]):
                link.replace_self(link.children)

    def _is_outside(self, page: str) -> bool:
        """Return whether a page in Markdown exists, but not below docs/."""
        path = Path(self.env.srcdir, f"{page}.md")
        return page not in self.env.found_docs and path.exists()


def _write_inline(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode  # the formula's source is not shown as well


def _write_block(translator: Any, node: Any) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_post_transform(NameFilesOutsideTheSite)
    app.add_html_math_renderer("mathml", (_write_inline, None), (_write_block, None))
    app.config.html_math_renderer = "mathml"

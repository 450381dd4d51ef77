"""Self-contained HTML pages: Jinja templates with autoescape, inline style, script and pictures, no network.

A page carries a content security policy that lets it load nothing and run nothing but its own script, known by its checksum.
Data for the script are JSON inside the page; the script writes them as text, never as markup.
"""

import base64
import hashlib
import json
import pathlib
from typing import Any

import jinja2
import markupsafe

from cotdistill_jax import files

TEMPLATES = pathlib.Path(__file__).with_name("templates")


def render(template: str, script: str | None = None, **values: Any) -> str:
    """Returns a page.

    Args:
        template: file in `templates/`, `base.html.jinja` extended.
        script: file in `templates/` that the page runs, or None.
        values: variables of the template; strings are escaped unless they are `markupsafe.Markup`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    return environment.get_template(template).render(
        style=markupsafe.Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=markupsafe.Markup(code),
        script_source=f"'sha256-{_checksum(code)}'" if code else "'none'",
        **values,
    )


def write(page: str, path: files.AnyPath) -> None:
    """Writes a page, folders made where missing."""
    target = files.as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")


def json_for_page(value: Any) -> markupsafe.Markup:
    """Returns a value as JSON that can stand inside a `<script type="application/json">`.

    Example: `json_for_page("</script>") == '"\\\\u003c/script>"'`.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Without "<" the text can neither end the element nor open a comment in it. Line and paragraph separators are escaped because
    # editors count them as line ends; lone surrogates because they cannot be written as UTF-8.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    safe = "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    return markupsafe.Markup(safe)


def _checksum(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()

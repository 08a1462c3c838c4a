"""Tables in Markdown."""

from trimtab.core.markdown import markdown_table


def test_a_line_a_row_under_its_header() -> None:
    assert markdown_table(["method", "loss"], [["AVID", 0.5]]) == "| method | loss |\n| --- | --- |\n| AVID | 0.5 |\n"
    assert markdown_table(["method"], []) == "| method |\n| --- |\n"

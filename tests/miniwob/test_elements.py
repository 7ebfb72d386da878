# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How the elements of a page are told."""

from trl_vlmq.envs.miniwob.elements import LONGEST_NAME, Element, describe_elements, hex_color


PLAIN = {
    "parent": None, "group": False, "tag": "div", "name": "", "id": "", "classes": "", "value": None, "checked": None,
    "selected": False, "disabled": False, "readonly": False, "focused": False, "type": "", "options": [], "color": "",
    "in_view": True, "x": 10.0, "y": 20.0, "width": 8.0, "height": 8.0,
}  # fmt: skip


def element(ref, role, **kwargs):
    return Element(**PLAIN | {"ref": ref, "role": role} | kwargs)


def line(role, **kwargs):
    return describe_elements([element("1", role, **kwargs)], "list")


def test_each_kind_of_element_is_told_with_its_state():
    assert line("button", name="OK", disabled=True) == '[1] button "OK" disabled'
    assert line("textbox", name="Name", value='a"b\nc', focused=True) == '[1] textbox "Name" value="a\\"b\\nc" focused'
    assert line("checkbox", name="x", checked=False) == '[1] checkbox "x" unchecked'
    assert line("radio", name="x", checked=True) == '[1] radio "x" checked'
    options = [["one", False], ["two", True]]
    assert line("combobox", id="list", options=options, value="2") == "[1] combobox #list options: one, two*"
    assert line("text", name="far", in_view=False) == '[1] text "far" out of view'


def test_what_has_no_name_is_told_by_class_colour_and_place_in_pixels_of_the_image():
    icon = element("7", "box", classes="ui-widget star big", color="rgb(255, 0, 0)")
    assert describe_elements([icon], "list", scale=2.0) == "[7] box .star.big #ff0000 at (20, 40)"
    assert line("circle", tag="circle", name="a", color="rgba(0, 0, 255, 0.5)") == '[1] circle "a" #0000ff at (10, 20)'


def test_the_tree_shows_what_holds_elements_together_and_the_list_does_not():
    page = [
        element("1", "table", group=True),
        element("2", "row", group=True, parent="1"),
        element("3", "cell", name="a", parent="2"),
        element("4", "button", name="b"),
    ]
    assert describe_elements(page, "tree") == '[1] table\n  [2] row\n    [3] cell "a"\n[4] button "b"'
    assert describe_elements(page, "list") == '[3] cell "a"\n[4] button "b"'


def test_long_texts_and_lists_are_cut():
    assert len(line("text", name="x" * 5000)) < LONGEST_NAME + 30
    assert line("combobox", value="0", options=[[str(i), False] for i in range(400)]).endswith("28, 29, ...")


def test_colors_are_hexadecimal_or_nothing():
    assert hex_color("rgb(1, 2, 255)") == "#0102ff"
    assert hex_color("url(#pattern)") == hex_color("") == ""

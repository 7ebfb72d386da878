# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Experts for tasks in which something must be found first: tabs, sections, menus, trees, mails, results."""

import re

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.experts.view import Expert, View, click, fill, ordinal, submit


def numbered_tab(view: View) -> Call | None:
    return click(view.first("tab", name=re.search(r"Tab #\d+", view.goal)[0]))


def link_behind_tabs(view: View) -> Call | None:
    """Opens the tabs or sections one after the other."""
    wanted = view.first("text", name=view.quoted[0])
    if wanted is not None:
        return click(wanted)
    tabs = view.all("tab")
    opened = next((i for i, tab in enumerate(tabs) if tab.selected), -1)
    return click(tabs[(opened + 1) % len(tabs)]) if tabs else None


def expanded_section(view: View) -> Call | None:
    section = view.first("tab")
    return click(section) if section is not None and not section.selected else submit(view)


def menu_path(view: View) -> Call | None:
    *above, last = re.match(r"Select (.*)", view.goal)[1].split(">")
    wanted = view.first("menuitem", name=last)
    if wanted is not None:
        return click(wanted)
    opener = next((e for name in reversed(above) for e in view.all("menuitem", name=name)), None)
    return None if opener is None else Call("hover", (opener.ref,))


def pie_slice(view: View) -> Call | None:
    center = view.first(id="wheelnav-divWheel-spreader")
    slice_ = view.first("tspan", name=view.quoted[0])
    if center is None or slice_ is None:
        return click(center)
    folded = abs(slice_.x - center.x) + abs(slice_.y - center.y) < 15
    return click(center if folded else slice_)


def tree_node(view: View) -> Call | None:
    node = view.first("text", name=view.quoted[0])
    return click(node) or click(view.marked("expandable-hitarea"))


def mail(view: View) -> Call | None:
    sender = re.search(r"email by (\S+) and", view.goal)[1]
    icon = {"star": "star", "trash": "trash"}.get((re.search(r"click the (\w+) icon", view.goal) or [0, ""])[1])
    name = view.first("text", name=sender)
    opened = view.first(id="close-email") is not None
    if icon is not None and not opened and name is not None:
        return click(view.marked(icon, parent=name.parent))
    if icon is not None and opened:
        return click(view.marked(icon))
    sending = view.first(id="send-reply") or view.first(id="send-forward")
    if sending is not None:
        field = view.first("textbox", tag="textarea") if "reply" in view.goal else view.first("textbox", tag="input")
        text = view.quoted[0] if "reply" in view.goal else re.search(r"to (\w+)\.$", view.goal)[1]
        return fill([(field, text)]) or click(sending)
    if opened:
        return click(view.first("text", name="Reply" if "reply" in view.goal else "Forward"))
    return click(name)


def post_button(view: View) -> Call | None:
    user = view.first("text", name=re.search(r"@\w+", view.goal)[0])
    if user is None:
        return None
    button = view.quoted[0]
    behind = view.page[view.page.index(user) + 1 :]
    icon = {"Reply": "reply", "Retweet": "retweet", "Like": "like"}.get(button)
    if icon is not None:
        return click(next((e for e in behind if icon in e.classes.split()), None))
    item = next((e for e in view.all("listitem") if e.name.startswith(button)), None)
    return click(item) or click(next((e for e in behind if "more" in e.classes.split()), None))


def contact(view: View) -> Call | None:
    person, what = re.match(r"Find (.*) in the contact book and click on their (\w+)", view.goal).groups()
    heading = view.first("heading")
    if heading is None or heading.name != person:
        # From the last page back to the first.
        return click(view.first("link", name=">") or view.first("link", name="<"))
    label = view.first("text", name=f"{what.capitalize()}:")
    return click(view.after(label, "link"))


def search_result(view: View) -> Call | None:
    query, index = view.quoted[0], ordinal(view) - 1
    field = view.first(id="search-text")
    if field is None:
        return None
    if field.value != query:
        view.memory["page"] = 0
        return fill([(field, query)])
    results = [e for e in view.all("link") if not re.fullmatch(r"[<>\d]+", e.name)]
    if not results or not view.memory["page"]:
        view.memory["page"] = 1
        return click(view.first("button", name="Search"))
    page = index // 3 + 1
    if view.memory["page"] != page:
        view.memory["page"] = page
        return click(view.first("link", name=str(page)))
    return click(results[index % 3])


EXPERTS: dict[str, Expert] = {
    "click-tab": numbered_tab,
    "click-tab-2": link_behind_tabs,
    "click-tab-2-easy": link_behind_tabs,
    "click-tab-2-medium": link_behind_tabs,
    "click-tab-2-hard": link_behind_tabs,
    "click-collapsible": expanded_section,
    "click-collapsible-nodelay": expanded_section,
    "click-collapsible-2": link_behind_tabs,
    "click-collapsible-2-nodelay": link_behind_tabs,
    "click-menu": menu_path,
    "click-pie": pie_slice,
    "navigate-tree": tree_node,
    "email-inbox": mail,
    "email-inbox-important": mail,
    "email-inbox-delete": mail,
    "email-inbox-reply": mail,
    "email-inbox-forward": mail,
    "email-inbox-noscroll": mail,
    "social-media": post_button,
    "phone-book": contact,
    "search-engine": search_result,
}

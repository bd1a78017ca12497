"""One task's page of Label Studio, used as a person would."""

import json

from icmformer import Click
from tests.e2e.conftest import PICTURES


class Annotator:
    """Works on one image of a task's page.

    Args:
        page: The browser's.
        studio: Label Studio and the backend.
        project: Its number.
        name: Some of the task's data, to find the task by.
        place: Which image of the page.
    """

    def __init__(self, page, studio, project, name="", place=0):
        self.page, self.studio, self.project, self.place = page, studio, project, place
        tasks = studio.api("GET", f"/api/tasks?project={project}")["tasks"]
        self.task = next(t["id"] for t in tasks if name in str(t["data"]))
        self.sent, self.told = [], []
        self.open()

    def open(self):
        self.page.goto(f"{self.studio.url}/projects/{self.project}/data?task={self.task}")
        self.page.wait_for_selector("canvas")
        self.page.wait_for_timeout(1500)
        self.choose_tool()

    def turn_to(self, place):
        """Goes on with another image of the page."""
        self.place = place
        self.choose_tool()

    def choose_tool(self):
        self.choose_label()
        tool = self.image.locator(".lsf-tool_smart").first  # each image has tools of its own
        if "lsf-tool_active" not in str(tool.get_attribute("class")):  # a second click would go on to the next tool
            tool.click()

    @property
    def image(self):
        return self.page.locator(".lsf-object").nth(self.place)

    def choose_label(self):
        """Of the first control of the image; with labels of the tool's own, the page forgets them after each click."""
        labels = self.page.locator(".lsf-label")
        own = labels.nth(self.place * (labels.count() // self.page.locator(".lsf-object").count()))
        if "lsf-label_selected" in str(own.get_attribute("class")):
            return
        if self.place:
            own.click()
        elif not self.page.locator(".lsf-label_selected").count():
            self.page.keyboard.press("1")

    def click(self, x, y, negative=False):
        """Clicks at a share of the photo's width and height and waits for the answer to it."""
        self.choose_label()
        self.image.locator("canvas").last.scroll_into_view_if_needed()
        box = self.photo_box()
        with self.page.expect_response(lambda r: "interactive-annotating" in r.url, timeout=60_000) as waiting:
            if negative:
                self.page.keyboard.down("Alt")
            self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if negative:
                self.page.keyboard.up("Alt")
        reply = waiting.value
        assert reply.status == 200, reply.text()
        self.sent = json.loads(reply.request.post_data)["context"]["result"]
        self.told = reply.json()["data"]["result"]
        self.page.wait_for_timeout(700)

    def accept(self):
        self.page.locator("[data-testid=bottombar-accept-suggestions-button]").click()
        self.page.wait_for_timeout(700)

    def reject(self):
        """Takes the object back that was clicked on."""
        self.page.locator("[data-testid=bottombar-reject-suggestions-button]").click()
        self.page.wait_for_timeout(300)

    def photo_box(self):
        """Where the photo is on the screen; as the page opens, some of it may lie beyond the part that is seen."""
        return self.image.locator(".lsf-image img").first.bounding_box()

    def show_whole(self):
        """Zooms out until the photo's edges are seen."""
        self.page.keyboard.press("Shift+1")
        self.page.wait_for_timeout(300)
        self.image.locator(".lsf-tool[aria-label=zoom-out]").click()
        self.page.wait_for_timeout(300)

    def submit(self):
        """Returns the annotation that Label Studio stored."""
        with self.page.expect_response(
            lambda r: r.request.method == "POST" and f"/tasks/{self.task}/annotations" in r.url, timeout=60_000
        ) as waiting:
            self.page.locator("[data-testid=bottombar-submit-button]").click()
        return self.studio.api("GET", f"/api/annotations/{waiting.value.json()['id']}/")

    def accept_and_submit(self):
        self.accept()
        return self.submit()

    def picture(self, name):
        self.page.screenshot(path=PICTURES / f"{name}.png")


def clicks_of(sent, image):
    """What the page says was clicked, in pixels."""
    height, width = image.pixels.shape[:2]
    unique = {item["id"]: item for item in sent}.values()
    return [
        Click(i["value"]["x"] * width / 100, i["value"]["y"] * height / 100, i.get("is_positive", True)) for i in unique
    ]

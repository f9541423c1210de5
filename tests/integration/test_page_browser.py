"""The status page in a real browser: what it looks like, that everybody can use it, and that it works without a script.

Its screenshots are kept in the test's temporary directory, or in CROSSFEED_SCREENSHOTS, for people to look at.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect
from pydantic import SecretStr

from functions.page import document
from tests.integration.page_steps import HOSTILE, TOKEN, furnish, serving_page
from tests.integration.relay_steps import letters, run, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
ADMIN = SecretStr(TOKEN)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        await opened.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("CROSSFEED_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@asynccontextmanager
async def opened(browser: Browser, address: str, **how: Any) -> AsyncIterator[Page]:
    """Open the page; it asks nobody but its own server for anything, and nothing in it fails."""
    context = await browser.new_context(**{"viewport": WIDE, **how})
    page = await context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    await page.goto(address)
    yield page
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert wrong == []
    await context.close()


async def check(page: Page, picture: Path) -> None:
    """Keep what is seen; nothing of it is out of sight to the side, and nobody is shut out."""
    await page.screenshot(path=picture, full_page=True)
    width = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1]
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": NARROW},
}


async def test_it_is_seen_and_usable_in_light_in_the_dark_and_on_a_telephone(
    settings: Settings, engine: AsyncEngine, browser: Browser, pictures: Path
) -> None:
    await furnish(engine)
    async with serving_page(settings, engine, admin_token=ADMIN) as site:
        for look, how in LOOKS.items():
            async with opened(browser, site.address, **how) as page:
                assert await page.title() == "Everything flows; 1 thing to look at · dual_write_postgres_read"
                await page.screenshot(path=pictures / f"status-{look}.png", full_page=True)
                await page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
                await check(page, pictures / f"status-{look}-unfolded.png")
        await run(
            engine,
            "DELETE FROM crossfeed.dead_letter",
            "DELETE FROM crossfeed.relay WHERE name = 'relay-2:7'",
            "UPDATE crossfeed.outbox SET at = at - interval '7 min'",
        )
        site.forget()
        for look in ("light", "dark"):
            async with opened(browser, site.address, **LOOKS[look]) as page:
                await expect(page.locator(".headline")).to_have_text("2 things are broken")
                await check(page, pictures / f"status-{look}-broken.png")


async def test_a_fresh_installation_and_one_whose_postgres_is_away_are_seen(
    settings: Settings,
    engine: AsyncEngine,
    browser: Browser,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving_page(settings, engine) as site:
        async with opened(browser, site.address) as page:
            await check(page, pictures / "status-fresh.png")
        site.page._known = None
        site.forget()
        monkeypatch.setattr("functions.probing.TIMEOUT_S", 0.2)
        async with engine.begin() as holder:
            await holder.exec_driver_sql("LOCK TABLE crossfeed.phase IN ACCESS EXCLUSIVE MODE")
            context = await browser.new_context(viewport=WIDE)
            page = await context.new_page()
            await page.goto(site.address)  # 503, which a browser calls an error
            await expect(page.locator(".headline")).to_have_text("1 thing is broken")
            await check(page, pictures / "status-away.png")
            await context.close()


async def test_it_looks_again_by_itself_keeps_what_is_typed_and_says_when_nobody_answers(
    settings: Settings, engine: AsyncEngine, browser: Browser, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    monkeypatch.setattr(document, "EVERY_S", 0.2)
    await furnish(engine)
    context = await browser.new_context(viewport=WIDE)
    page = await context.new_page()
    async with serving_page(settings, engine, admin_token=ADMIN) as site:
        await page.goto(site.address)
        await page.locator("#checks summary").click()
        await page.locator("h1").click()
        await run(engine, "DELETE FROM crossfeed.dead_letter WHERE number = 2")
        await expect(page.locator("input[name=number]")).to_have_count(2)
        assert await page.locator("#checks").get_attribute("open") is not None
        await page.locator("input[name=token]").fill("half a tok")
        await page.locator("input[value='3']").check()
        await run(engine, "DELETE FROM crossfeed.dead_letter WHERE number = 1")
        await page.wait_for_timeout(500)
        assert await page.locator("input[name=token]").input_value() == "half a tok"
        assert await page.locator("input[value='3']").is_checked()
        await page.locator("input[name=token]").fill("")
        await page.locator("input[value='3']").uncheck()
        await page.locator("#pause").click()
        await page.wait_for_timeout(400)
        await expect(page.locator("input[name=number]")).to_have_count(2)
        await page.locator("#pause").click()
        await expect(page.locator("input[name=number]")).to_have_count(1)
    await expect(page.locator("#stale")).to_contain_text("Nobody answers since")
    await page.screenshot(path=pictures / "status-stale.png")
    await context.close()


async def test_without_a_script_letters_are_discarded_in_two_deliberate_steps(
    settings: Settings, engine: AsyncEngine, browser: Browser, pictures: Path
) -> None:
    await furnish(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE crossfeed.dead_letter SET reason = %(it)s, id = %(it)s WHERE number = 1", {"it": HOSTILE}
        )
    async with (
        serving_page(settings, engine, admin_token=ADMIN) as site,
        opened(browser, site.address, java_script_enabled=False) as page,
    ):
        assert HOSTILE in await page.locator("form").inner_text()
        discard = page.get_by_role("button", name="Discard the chosen for good")
        await expect(discard).not_to_be_visible()
        await page.get_by_label("1", exact=True).check()
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_text("Discard…").click()
        await discard.click()
        await expect(page.get_by_role("status")).to_contain_text("Discarded 1 dead letter.")
        await page.screenshot(path=pictures / "status-discarded.png")
        await until(lambda: _are(engine, 2))


async def _are(engine: AsyncEngine, count: int) -> bool:
    return len(await letters(engine)) == count

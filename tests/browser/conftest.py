"""Fixtures: Debian's Chromium, a page, and a front with a scripted broker."""

import importlib.util
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from playwright.async_api import Browser, async_playwright

    from broker.wire.model_profile import ModelProfile
    from tests.browser.form_scene import FormScene, form_scene
    from tests.browser.gallery_scene import GalleryScene
    from tests.browser.visit import Visit, open_visit
    from tests.http_front.scripted_broker import ScriptedBroker, models_found
    from tests.http_front.serving import Served, serve

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def chromium() -> AsyncIterator[Browser]:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("chromium is not installed; fix: apt-get install chromium")
        async with async_playwright() as playwright:
            # Without the sandbox, which does not work as root.
            browser = await playwright.chromium.launch(
                executable_path=program, args=["--no-sandbox"]
            )
            yield browser
            await browser.close()

    @pytest_asyncio.fixture(loop_scope="session")
    async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedBroker]:
        async with ScriptedBroker(tmp_path_factory.mktemp("b")) as scripted:
            yield scripted

    @pytest_asyncio.fixture(loop_scope="session")
    async def front(tmp_path: Path, broker: ScriptedBroker) -> AsyncIterator[Served]:
        async with serve(tmp_path, broker.addresses) as served:
            yield served

    @pytest_asyncio.fixture(loop_scope="session")
    async def visit(chromium: Browser, front: Served) -> AsyncIterator[Visit]:
        async with open_visit(chromium, front.url) as visit:
            yield visit

    @pytest_asyncio.fixture(scope="module", loop_scope="session")
    async def gallery_server(
        tmp_path_factory: pytest.TempPathFactory,
    ) -> AsyncIterator[GalleryScene]:
        folder = tmp_path_factory.mktemp("g")
        async with ScriptedBroker(folder) as broker, serve(folder, broker.addresses) as front:
            yield GalleryScene(broker, front)

    @pytest.fixture
    def gallery(gallery_server: GalleryScene) -> GalleryScene:
        gallery_server.clear()
        return gallery_server

    @pytest_asyncio.fixture(scope="module", loop_scope="session")
    async def form_server(
        chromium: Browser, tmp_path_factory: pytest.TempPathFactory
    ) -> AsyncIterator[FormScene]:
        folder, run_dir = (tmp_path_factory.mktemp(name) for name in "fb")
        async with form_scene(chromium, folder, run_dir, models_found(ModelProfile())) as scene:
            yield scene

    @pytest.fixture
    def scene(form_server: FormScene) -> FormScene:
        form_server.clear()
        return form_server

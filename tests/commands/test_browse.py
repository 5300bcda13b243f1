"""`fdif browse` in a real browser and by raw requests: what it shows, and what it does not give away."""

import http.client
import io
import json
import signal
import socket
import subprocess
import sys

import blosc2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fdif_jax.datasets.layouts import DatasetPlan, MonaiLayout, NnunetLayout
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.scripts import browse, cli
from fdif_jax.scripts.benchmarks.reliability import server

GRID = (20, 24, 28)
NAMES = ("ball", "cube", "never")
Z, Y, X = np.ogrid[:20, :24, :28]


def sample(index):
    """A ball and a cube, which moves from case to case."""
    ball = (Z - 10) ** 2 + (Y - 8) ** 2 + (X - 8) ** 2 < 36
    cube = (abs(Z - 10) < 5) & (abs(Y - 12 - index) < 5) & (abs(X - 19) < 6)
    label = np.where(cube, 2, ball).astype(np.uint8)
    return np.where(label > 0, 100, (Z + Y + X) % 30).astype(np.uint8), label


def several(index):
    image, label = sample(index)
    return image, label, (label > 0).astype(np.uint8)


def write(folder, layout, source=sample, tasks=None, count=4):
    plan = DatasetPlan({}, "digest", 0, count - 1, 1, GRID, tasks or {"class": NAMES}, layout)
    write_dataset(folder, lambda indices: [source(i) for i in indices], plan)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("browse") / "shapes", MonaiLayout())


def served(folder):
    """A server of a dataset; its port."""
    return server.served(folder, "the title")


def get(port, path, host=None):
    """Status and body of a request that no client has tidied up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def volume(port, path):
    status, body = get(port, path)
    assert status == 200, body
    return nib.Nifti1Image.from_bytes(body)


# ------------------------------------------------------------------------------------------- in the browser


class Page:
    """The page in the browser, and all that it asked for and complained about."""

    def __init__(self, browser, port):
        self.page = browser.new_page(viewport={"width": 1100, "height": 700})
        self.hosts, self.complaints = set(), []
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}/")

    def shows(self, case):
        """Wait until the page shows a case."""
        self.page.wait_for_selector(f"body[data-state='shown {case}']", timeout=30_000)
        assert self.page.inner_text("#name") == case
        assert self.page.inner_text("#cases [aria-selected=true]") == case

    def pixels(self):
        png = self.page.locator("#canvas").screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def coloured(pixels):
    """How many pixels are no shade of grey."""
    return np.count_nonzero(pixels.max(-1) - pixels.min(-1) > 30)


@pytest.mark.slow("a browser and four servers")
def test_the_page_shows_cases_with_their_labels(dataset, browser):
    with served(dataset) as port:
        one = Page(browser, port)
        page = one.page
        one.shows("sample_00000")
        assert page.title() == page.inner_text("#title") == "the title"
        assert page.inner_text("#facts") == "20 × 24 × 28 voxels of 1 × 1 × 1 mm"
        label = sample(0)[1]
        counts = [text for i in (1, 2) for text in (NAMES[i - 1], str(np.count_nonzero(label == i)))]
        assert page.inner_text("#legend").split("\n") == counts
        assert (
            page.inner_text("#location") == "[10, 12, 14] 100 · cube"
            and page.inner_text("#count") == "4 cases"
        )

        # Three planes and the 3D view: none of the quarters is blank, and labels are in colour on all of them.
        first = one.pixels()
        h, w = (n // 2 for n in first.shape[:2])
        for quarter in (first[:h, :w], first[:h, w:], first[h:, :w], first[h:, w:]):
            assert len(np.unique(quarter.reshape(-1, 3), axis=0)) > 10 and coloured(quarter) > 500

        page.keyboard.press("Space")
        assert not page.is_checked("#overlay")
        hidden = one.pixels()
        assert coloured(hidden) < coloured(first) / 20
        page.keyboard.press("Space")
        np.testing.assert_array_equal(one.pixels(), first)
        page.fill("#opacity", "20")
        assert np.abs(one.pixels() - first).max() > 20

        page.keyboard.press("ArrowDown")
        one.shows("sample_00001")
        page.fill("#opacity", "50")
        assert np.count_nonzero(np.abs(one.pixels() - first).max(-1) > 20) > 500  # its cube lies elsewhere
        page.keyboard.press("ArrowUp")
        one.shows("sample_00000")
        np.testing.assert_array_equal(one.pixels(), first)

        page.keyboard.press("/")
        page.keyboard.type("0003")
        assert page.inner_text("#count") == "1 of 4 cases"
        page.keyboard.press("ArrowDown")
        one.shows("sample_00003")
        page.keyboard.press("Escape")
        assert page.locator("#cases li:visible").count() == 4
        page.locator("#cases li").nth(2).click()
        one.shows("sample_00002")
        assert page.url.endswith("#sample_00002")
        page.reload()
        one.shows("sample_00002")
        assert one.hosts == {f"127.0.0.1:{port}"} and one.complaints == []
        page.close()


@pytest.mark.slow("a page more")
def test_a_broken_case_is_told_on_the_page_and_the_others_still_show(tmp_path, browser):
    folder = write(tmp_path / "shapes", MonaiLayout(compress="none"))
    image, label = (folder / f"data/{kind}/batch_0000" for kind in ("image", "label"))
    (label / "sample_00001_y.nii").write_bytes((label / "sample_00001_y.nii").read_bytes()[:1000])
    with served(folder) as port:
        (image / "sample_00002_x.nii").unlink()
        one = Page(browser, port)
        one.shows("sample_00000")
        assert not one.page.is_visible("#error")
        one.page.keyboard.press("ArrowDown")
        one.shows("sample_00001")  # its image, without labels
        assert "sample_00001_y.nii: truncated" in one.page.inner_text("#error")
        assert one.page.inner_text("#legend") == "" and one.pixels().max() > 50
        one.page.keyboard.press("ArrowDown")
        one.shows("sample_00002")
        assert "sample_00002_x.nii: no such file" in one.page.inner_text("#error")
        one.page.keyboard.press("ArrowDown")
        one.shows("sample_00003")
        assert not one.page.is_visible("#error") and "ball" in one.page.inner_text("#legend")
        one.page.close()


@pytest.mark.slow("a page more")
def test_ignored_voxels_have_no_colour(tmp_path, browser):
    folder = write(tmp_path / "shapes", MonaiLayout(compress="none"), count=2)
    label = sample(0)[1].astype(np.int16)
    label[8:] = -1
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "data/label/batch_0000/sample_00000_y.nii")
    with served(folder) as port:
        one = Page(browser, port)
        one.shows("sample_00000")
        counts = [str((label == 1).sum()), str((label == 2).sum()), f"{(label < 0).sum():,}"]
        shown = one.page.inner_text("#legend").split("\n")
        assert shown == [
            text for pair in zip(("ball", "cube", "ignored"), counts, strict=True) for text in pair
        ]
        assert one.page.inner_text("#location") == "[10, 12, 14] 100"  # the cube, which is ignored there
        one.page.keyboard.press("ArrowDown")
        one.shows("sample_00001")
        assert "ignored" not in one.page.inner_text("#legend") and one.complaints == []
        one.page.close()


@pytest.mark.slow("a page more")
def test_channels_and_label_maps_are_chosen(tmp_path, browser):
    tasks = {"class": NAMES, "object": ("object",)}
    folder = (
        write(tmp_path / "raw", NnunetLayout(compress="none"), several, tasks) / "Dataset999_SDFSynthetic"
    )
    document = json.loads((folder / "dataset.json").read_text())
    document["channel_names"]["1"] = "inverted"
    (folder / "dataset.json").write_text(json.dumps(document))
    for path in list((folder / "imagesTr").iterdir()):
        array = np.asarray(nib.load(path).dataobj).astype(np.float64)
        nib.save(nib.Nifti1Image(0.5 - array, np.diag([2, 1, 1, 1])), str(path).replace("_0000.", "_0001."))
    with served(folder) as port:
        one = Page(browser, port)
        one.shows("case_00000")
        one.page.select_option("#channel", "1")
        one.page.wait_for_selector("#location:text('-99.5')")
        one.page.select_option("#task", "object")
        one.page.wait_for_selector("#legend li:text('object')")
        assert one.page.locator("#legend li").count() == 1 and one.complaints == []
        one.page.close()


# ------------------------------------------------------------------------------------------- by raw requests


def test_volumes_are_those_of_the_files(dataset):
    with served(dataset) as port:
        listing = json.loads(get(port, "/dataset.json")[1])
        assert listing["cases"] == [f"sample_0000{i}" for i in range(4)] and listing["training"] == 3
        for index in range(4):
            image, label = sample(index)
            described = json.loads(get(port, f"/cases/{index}.json")[1])
            shown = volume(port, f"/cases/{index}/image-0.nii")
            np.testing.assert_array_equal(np.asarray(shown.dataobj), image)
            np.testing.assert_array_equal(shown.affine, np.eye(4))
            ids = np.array([0, *(entry["id"] for entry in described["labels"][0])])
            ranks = np.asarray(volume(port, f"/cases/{index}/label-0.nii").dataobj)
            np.testing.assert_array_equal(ids[ranks], label)
            assert described["shape"] == list(GRID) and described["channels"] == 1


def test_decathlon_channels_blosc2_and_affines(tmp_path):
    array = np.random.default_rng(0).normal(size=(*GRID, 2))  # float64, which the viewer is given as float32
    affine = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, -3, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "two.nii.gz")
    label = np.zeros(GRID, np.int16)
    label[3, 4, 5] = 300
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "two_label.nii.gz")
    blosc2.asarray(array[..., 0].astype(np.float32), urlpath=str(tmp_path / "one.b2nd"))
    blosc2.asarray(label, urlpath=str(tmp_path / "one_label.b2nd"))
    names = {str(i): f"class {i}" for i in range(400)}
    cases = [
        {"image": "two.nii.gz", "label": "two_label.nii.gz"},
        {"image": "one.b2nd", "label": "one_label.b2nd"},
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names, "training": cases}))
    with served(tmp_path) as port:
        described = json.loads(get(port, "/cases/0.json")[1])
        assert described["channels"] == 2 and described["spacing"] == [1.5, 2, 3]
        assert described["labels"] == [[{"id": 300, "name": "class 300", "voxels": 1}]]
        for channel in (0, 1):
            shown = volume(port, f"/cases/0/image-{channel}.nii")
            np.testing.assert_array_equal(np.asarray(shown.dataobj), array[..., channel].astype(np.float32))
            np.testing.assert_array_equal(shown.affine, affine)
        assert np.asarray(volume(port, "/cases/0/label-0.nii").dataobj)[3, 4, 5] == 1
        assert get(port, "/cases/1/image-0.nii")[1][352:] == array[..., 0].astype(np.float32).tobytes(
            order="F"
        )


@pytest.mark.parametrize(
    "path",
    [
        *("/../browse.py", "/web/../../../LICENSE", "/%2e%2e/browse.py", "//etc/passwd", "/cases/../browse.py"),
        *("/browse.html", "/LICENSE.niivue.txt", "/data/data.json", "/cases/4.json", "/cases/-1.json", "/cases/٣.json"),
        *("/cases/0/image-1.nii", "/cases/0/label-1.nii", "/cases/0/image-0.nii.gz", "/cases/99999999999.json"),
    ],
)  # fmt: skip
def test_nothing_else_is_served(path, dataset):
    with served(dataset) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        with raw.makefile("rb") as answer:
            status, *_, body = answer.read().split(b"\r\n")
    assert b" 404 " in status and body == b"no such page"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil"]
)
def test_other_names_of_this_machine_are_refused(host, dataset):
    with served(dataset) as port:
        assert get(port, "/dataset.json", host)[0] == 403
        assert get(port, "/dataset.json", f"localhost:{port}")[0] == 200


def test_only_this_address_of_this_machine_listens(dataset):
    with served(dataset) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


# ------------------------------------------------------------------------------------------- the command


@pytest.mark.slow("a process of its own; pages are served in this one")
def test_the_command_serves_until_ctrl_c(dataset):
    command = [sys.executable, "-m", "fdif_jax.scripts.browse", str(dataset), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        assert said.startswith(f"{dataset}: 4 cases at http://127.0.0.1:") and "Ctrl-C" in said
        port = int(said.split("127.0.0.1:")[1].split("/")[0])
        assert get(port, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0 and process.stderr.read() == ""


def test_the_web_browser_is_opened_at_the_page(dataset, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(browse.webbrowser, "open", opened.append)
    monkeypatch.setattr(browse._Server, "serve_forever", lambda self: None)
    cli.run("browse", [str(dataset), "--port", "0", "--no-open"])
    assert not opened
    cli.run("browse", [str(dataset), "--port", "0"])
    assert opened[0] in capsys.readouterr().out


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        cli.run("browse", [*map(str, arguments), "--no-open"])
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2 and "\n" not in error
    return error


def test_a_port_in_use_and_impossible_ports_are_one_line(dataset, capsys):
    with served(dataset) as port:
        assert f"port {port} is in use" in refused([dataset, "--port", port], capsys)
    assert "ports are 1 to 65535" in refused([dataset, "--port", "70000"], capsys)


def test_what_is_no_dataset_is_one_line(dataset, tmp_path, capsys):
    assert "no dataset" in refused([tmp_path], capsys)
    assert "no such file" in refused([tmp_path / "none.json"], capsys)
    listed = json.loads((dataset / "data/data.json").read_text())
    listed["training"][1]["image"] = "gone.nii.gz"
    (tmp_path / "data.json").write_text(json.dumps(listed))
    assert "no such file" in refused([tmp_path], capsys)


def test_the_viewer_comes_with_its_licence():
    text = (browse._WEB / "LICENSE.niivue.txt").read_text()
    assert "BSD 2-Clause" in text and "fflate" in text
    assert 1e6 < (browse._WEB / "niivue.umd.js").stat().st_size < 4e6

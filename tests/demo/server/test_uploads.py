"""Hostile, broken and unusual uploads; faces; what is kept of them, and for how long."""

import io
import logging
import os
import struct
import sys

import numpy as np
import pytest
from image_files import chunk, encoded
from PIL import Image, ImageCms
from skimage import data

from dinoforge.demo.server import pictures
from dinoforge.demo.server.problems import Problem

PHOTOGRAPH = data.chelsea()  # a cat


def seen(client, answer):
    """Pixels of an uploaded picture, as the networks get them."""
    assert answer.status_code == 200, answer.text
    file = client.get(f"/api/images/{answer.json()['id']}").content
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


def png_header(width, height):
    """The smallest PNG that claims a size, with data for none of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT") + chunk(b"IEND")


def part(words):
    """A form with one part."""
    return f"--b\r\nContent-Disposition: form-data; {words}\r\n\r\nx\r\n--b--\r\n".encode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_four_formats_are_read(client, upload, kind):
    pixels = seen(client, upload(encoded(PHOTOGRAPH, kind)))
    assert pixels.shape == PHOTOGRAPH.shape
    assert np.abs(pixels - PHOTOGRAPH).mean() < 8


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"GIF8", b"PK\3\4",
        b"<!doctype html><script>alert(1)</script>", b"II*\0" + bytes(100), b"BM" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0", b"\0\0\0\x0cJXL \r\n\x87\n", bytes(1000),
    ],
)  # fmt: skip
def test_other_types_are_refused_whatever_their_name(upload, content):
    answer = upload(content)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")


@pytest.mark.parametrize(
    "content",
    [
        png_header(50_000, 50_000),
        png_header(7_072, 7_072),  # 50,013,184 pixels
        png_header(2**31 - 1, 1),
        png_header(0, 10),
        encoded(PHOTOGRAPH, "JPEG")[:9000],
        encoded(PHOTOGRAPH)[:90_000],
        encoded(PHOTOGRAPH, "WEBP")[:5000],
        b"\xff\xd8\xff" + bytes(100),
        b"GIF89a" + bytes(100),
    ],
)
def test_bombs_and_damaged_files_are_refused(upload, content):
    answer = upload(content)
    assert (answer.status_code, answer.json()["code"]) == (422, "undecodable")


def test_too_large_a_file_is_refused_by_its_bytes(client, upload):
    assert upload(bytes(21_000_000)).status_code == 413

    def pieces():  # without a Content-Length
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(30):
            yield bytes(1_000_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/api/images", content=pieces(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"--b\r\n", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data"),
        (part('name="file"'), "multipart/form-data; boundary=b"),
        (part('filename="x"'), "multipart/form-data; boundary=b"),
        (b"{}", "application/json"),
        (b"file=x", "application/x-www-form-urlencoded"),
        (b"\xff" * 100, "multipart/form-data; boundary=\xff"),
    ],
)  # fmt: skip
def test_what_is_no_form_with_a_file_is_refused(client, content, kind):
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = client.post("/api/images", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_photograph_is_turned_upright_and_only_pixels_are_kept(client, upload):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    turned = np.rot90(PHOTOGRAPH)
    pixels = seen(client, upload(encoded(turned, "JPEG", quality=95, exif=exif)))
    assert np.abs(pixels - PHOTOGRAPH).mean() < 5
    answer = upload(encoded(turned, "JPEG", exif=exif)).json()
    file = client.get(f"/api/images/{answer['id']}").content
    assert b"a camera" not in file
    assert not Image.open(io.BytesIO(file)).getexif()


def test_colors_of_another_space_become_those_of_the_screen(client, upload):
    # Equal but for exchanged red and blue primaries: an error would be seen at once.
    space = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, blue = space.index(b"rXYZ") + 4, space.index(b"bXYZ") + 4
    swapped = bytearray(space)
    swapped[red : red + 8], swapped[blue : blue + 8] = space[blue : blue + 8], space[red : red + 8]
    pixels = seen(client, upload(encoded(PHOTOGRAPH, icc_profile=bytes(swapped))))
    assert np.abs(pixels - PHOTOGRAPH[..., ::-1]).mean() < 5
    assert np.abs(pixels - PHOTOGRAPH).mean() > 20
    broken = seen(client, upload(encoded(PHOTOGRAPH, icc_profile=b"RGB " * 40)))
    assert np.abs(broken - PHOTOGRAPH).mean() < 5  # of JPEG, which the answer is


def test_large_pictures_are_reduced_and_transparent_ones_get_a_background(client, upload):
    large = np.zeros((3000, 1500, 3), np.uint8)
    assert upload(encoded(large)).json() | {"id": ""} == {
        "id": "", "width": 518, "height": 1036, "rows": 11, "columns": 6, "faces": 0,
    }  # fmt: skip
    clear = np.zeros((30, 30, 4), np.uint8)
    assert seen(client, upload(encoded(clear))).min() == 255


def test_a_face_is_refused_and_leaves_no_trace(upload, site, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("dinoforge"), "propagate", True)
    kept, known = len(site.pictures._pictures), len(site.sides[0].cache._arrays)
    with caplog.at_level(logging.DEBUG):
        answer = upload(data.astronaut())
    assert (answer.status_code, answer.json()["code"]) == (422, "face_found")
    assert answer.json()["hint"].startswith("blur")
    assert not [one for one in caplog.records if one.name.startswith("dinoforge")]
    assert len(site.pictures._pictures) == kept
    assert len(site.sides[0].cache._arrays) == known


def test_a_face_is_blurred_if_the_client_wants_that(client, upload):
    answer = upload(data.astronaut(), "?faces=blur")
    assert answer.json()["faces"] == 1
    change = np.abs(seen(client, answer) - data.astronaut()).max(axis=2)
    assert change[80:150, 190:255].mean() > 20
    assert change[250:, :100].mean() < 8
    assert upload(data.astronaut(), "?faces=off").json()["code"] == "invalid"


def test_faces_of_the_collection_are_blurred_where_they_are_shown(demo_index, monkeypatch):
    from starlette.testclient import TestClient

    from dinoforge.demo.server.app import make_app
    from dinoforge.demo.server.opening import open_site

    site = open_site([demo_index], threads=1, faces="off", blur_collection=True)
    face = encoded(data.astronaut()[:256, 96:352], "WEBP", quality=95)
    monkeypatch.setattr(site.sides[0].index, "thumbnail", lambda _: face)
    monkeypatch.setattr(site.sides[0].index, "decode", lambda _: data.astronaut())
    detector = site.collection_gate._detector
    with TestClient(make_app(site), base_url="http://127.0.0.1") as client:
        for path in ("rows/0/thumb", "rows/0/thumb", "rows/0/image"):
            shown = Image.open(io.BytesIO(client.get(f"/api/{path}").content)).convert("RGB")
            left, top = (85, 61) if path.endswith("thumb") else (181, 61)  # of the face
            for box in detector.find(np.asarray(shown)):
                assert np.abs(box[:2] - (left, top)).max() > 40, path
        answer = client.post(
            "/api/images",
            files={"file": encoded(data.astronaut())},
            headers={"X-CSRF-Token": site.csrf},
        )
        assert (answer.status_code, answer.json()["faces"]) == (200, 0)  # not looked for


def test_ids_expire_and_the_oldest_pictures_leave_first(monkeypatch):
    now, kept = [1000.0], pictures.Pictures()
    monkeypatch.setattr(pictures.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pictures, "_BYTES", 2500)
    ids = [kept.add(pictures.Picture.of(np.full((20, 20, 3), n, np.uint8))) for n in range(3)]
    with pytest.raises(Problem, match="has expired"):
        kept.get(ids[0])
    now[0] += 1700
    kept.get(ids[1])
    now[0] += 200
    assert kept.get(ids[1]).pixels[0, 0, 0] == 1
    with pytest.raises(Problem):
        kept.get(ids[2])


def test_nothing_is_written_to_disk(client, upload):
    opened, watching = [], [False]

    def watch(event, arguments):
        if event == "open" and watching[0] and not isinstance(arguments[0], int):
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                opened.append(path)

    sys.addaudithook(watch)  # of every file that this process opens; the decoder can write none
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    upload(noise[:9, :9])  # imports and processes of the first request
    watching[0] = True
    try:
        id_ = upload(encoded(noise, compress_level=0)).json()["id"]  # 9 MB
        client.post("/api/search", json={"id": id_, "k": 3})
        client.get(f"/api/images/{id_}")
        upload(data.astronaut())
    finally:
        watching[0] = False
    assert opened == []

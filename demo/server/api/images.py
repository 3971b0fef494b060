"""Pictures of a client: upload, from the collection, what the networks see, what is computed."""

from starlette.responses import Response

from dinoforge.demo.server.api.fields import MODEL, ROW, decode_row, grid_of
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.operations import Call, Operation, object_of
from dinoforge.demo.server.pictures import Picture
from dinoforge.demo.server.problems import busy
from dinoforge.demo.server.site import MAX_UPLOADS
from dinoforge.demo.server.uploads import read_upload
from dinoforge.images.resize import encode_jpeg

__all__ = ["OPERATIONS"]


async def _upload(call: Call) -> dict[str, object]:
    if call.site.uploads.locked():
        raise busy(f"{MAX_UPLOADS} uploads are in progress", wait_s=2)
    async with call.site.uploads:
        data = await read_upload(call.request)
        return await call.while_connected(_admit(call, data))


async def _admit(call: Call, data: bytes) -> dict[str, object]:
    decoded, blurring = await call.site.decoder.decode(data), call.query["faces"] == "blur"
    # Nothing has been stored so far, and nothing is if this raises.
    pixels, faces = await call.site.compute.run(
        lambda: call.site.gate.admit(decoded, blurring=blurring)
    )
    return _kept(call, call.site.side(0), Picture.of(pixels)) | {"faces": faces}


async def _from_row(call: Call) -> dict[str, object]:
    side, row = call.site.side(call.body["model"]), call.body["row"]
    pixels = await call.site.compute.run(lambda: decode_row(call, side, row))
    return _kept(call, side, Picture.of(pixels)) | {"faces": 0}


def _kept(call: Call, side: Side, picture: Picture) -> dict[str, object]:
    return {"id": call.site.pictures.add(picture), **_sizes(side, picture)}


def _sizes(side: Side, picture: Picture) -> dict[str, int]:
    height, width = picture.pixels.shape[:2]
    return {"width": width, "height": height, **grid_of(side, picture.pixels)}


async def _picture(call: Call) -> Response:
    picture = call.site.pictures.get(call.path["id"])
    data = await call.site.compute.run(lambda: encode_jpeg(picture.pixels, 92))
    return Response(data, media_type="image/jpeg")


async def _status(call: Call) -> dict[str, object]:
    side, picture = call.site.side(call.query["model"]), call.site.pictures.get(call.path["id"])
    kinds = ("vector", "patches", "attention")
    return {
        **_sizes(side, picture),
        "queued": call.site.inference.num_pending,
        "ready": [kind for kind in kinds if side.has(picture, kind)],
    }


OPERATIONS = (
    Operation(
        "POST",
        "/images",
        "Upload a picture: JPEG, PNG, WebP or GIF of at most 20 MB and 50 megapixels",
        _upload,
        query={"faces": {"enum": ["refuse", "blur"], "default": "refuse"}},
        is_upload=True,
    ),
    Operation(
        "POST",
        "/images/from-row",
        "Take a picture of the collection",
        _from_row,
        body=object_of({"row": ROW, "model": MODEL}, ("row",)),
    ),
    Operation(
        "GET", "/images/{id}", "The picture as networks get it", _picture, media=("image/jpeg",)
    ),
    Operation(
        "GET",
        "/images/{id}/status",
        "Its size, its patches for a model, and what is computed of it",
        _status,
        query={"model": MODEL},
    ),
)

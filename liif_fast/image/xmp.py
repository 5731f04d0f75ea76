"""XMP packets: what stays true of a picture of another size and orientation is kept, and its sizes are corrected."""

from __future__ import annotations

from xml.etree import ElementTree

from liif_fast.errors import one_line

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TIFF, _EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
_XMP, _PHOTOSHOP = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/photoshop/1.0/"
# The namespaces whose properties describe the scene, the people and the rights, and not the file or its pixels.
_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": _RDF,
    "xml": "http://www.w3.org/XML/1998/namespace",
    "tiff": _TIFF,
    "exif": _EXIF,
    "exifEX": "http://cipa.jp/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "xmp": _XMP,
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": _PHOTOSHOP,
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "cc": "http://creativecommons.org/ns#",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
}
# Of these, the properties of the file as it was: its layout, its thumbnails, places in its pixels.
_FALSE = {
    *(f"{{{_TIFF}}}{name}" for name in ("ImageWidth", "ImageLength", "BitsPerSample", "Compression", "NativeDigest")),
    *(f"{{{_TIFF}}}{name}" for name in ("PhotometricInterpretation", "SamplesPerPixel", "PlanarConfiguration")),
    *(f"{{{_TIFF}}}{name}" for name in ("YCbCrSubSampling", "YCbCrPositioning", "TransferFunction")),
    *(f"{{{_TIFF}}}{name}" for name in ("XResolution", "YResolution", "ResolutionUnit")),
    *(f"{{{_EXIF}}}{name}" for name in ("PixelXDimension", "PixelYDimension", "CompressedBitsPerPixel")),
    *(f"{{{_EXIF}}}{name}" for name in ("SubjectArea", "SubjectLocation", "NativeDigest", "SpatialFrequencyResponse")),
    *(f"{{{_EXIF}}}FocalPlane{name}" for name in ("XResolution", "YResolution", "ResolutionUnit")),
    f"{{{_XMP}}}Thumbnails",
    *(f"{{{_PHOTOSHOP}}}{name}" for name in ("DocumentAncestors", "TextLayers", "History")),
}
_ORIENTATION = f"{{{_TIFF}}}Orientation"
_HEAD = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_TAIL = b'\n<?xpacket end="w"?>'

for _prefix, _uri in _NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _uri)


def kept(packet: bytes, notes: list[str]) -> bytes | None:
    """Return the packet with what stays true only, upright, None where nothing is left; a note says what is dropped."""
    start, end = packet.find(b"<x:xmpmeta"), packet.rfind(b">")
    start = packet.find(b"<rdf:RDF") if start < 0 else start
    text = packet[max(start, 0) : end + 1].split(b"<?xpacket end")[0].rstrip()
    try:
        if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text)
    # What a file holds may be anything, and the picture itself is unharmed.
    except Exception as error:
        notes.append(f"unreadable XMP data left out ({one_line(error)})")
        return None
    dropped: set[str] = set()
    count = sum(_clean(description, dropped) for description in root.iter(f"{{{_RDF}}}Description"))
    if dropped:
        notes.append(f"XMP data left out that the result makes false: {', '.join(sorted(dropped))}")
    if not count:
        return None
    written: bytes = ElementTree.tostring(root, encoding="utf-8")
    return _HEAD + written + _TAIL


def _clean(description: ElementTree.Element, dropped: set[str]) -> int:
    """Remove the false properties of a description; return how many are left."""
    left = 0
    for name in list(description.attrib):
        if name == _ORIENTATION:
            description.attrib[name] = "1"
        elif not _is_true(name):
            del description.attrib[name]
            dropped.add(_short(name))
        left += name in description.attrib and not name.startswith(f"{{{_RDF}}}")
    for child in list(description):
        if child.tag == _ORIENTATION:
            child.text = "1"
        elif not _is_true(child.tag):
            description.remove(child)
            dropped.add(_short(child.tag))
            continue
        left += 1
    return left


def _is_true(name: str) -> bool:
    return name not in _FALSE and name[1:].partition("}")[0] in _NAMESPACES.values()


def _short(name: str) -> str:
    """Return `tiff:ImageWidth`, or the name of the namespace where it has no known prefix."""
    uri, _, local = name[1:].partition("}")
    prefix = next((prefix for prefix, known in _NAMESPACES.items() if known == uri), None)
    return f"{prefix}:{local}" if prefix else uri.rstrip("/#").rpartition("/")[2] or local

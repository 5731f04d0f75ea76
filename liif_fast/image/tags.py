"""Tags of TIFF and EXIF by their names: how a file is laid out, and what stays true of a resized picture."""

from __future__ import annotations

from PIL import TiffImagePlugin as Tiff
from PIL.ExifTags import IFD, Base

from liif_fast.image import geotiff

RESOLUTION = (Tiff.X_RESOLUTION, Tiff.Y_RESOLUTION, Tiff.RESOLUTION_UNIT)
PIXEL_DIMENSIONS = (Base.ExifImageWidth, Base.ExifImageHeight)
REDUCED, MASK = 1, 4  # bits of NewSubfileType
DNG_VERSION = 50706
GDAL_NODATA_TAG = geotiff.GDAL_NODATA
IMAGE_SOURCE_DATA = 37724  # Photoshop's layers
COLOUR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892  # photometric interpretations of raw photographs

# How a TIFF's pixels are laid out. A writer states these itself, so nothing is said when the old ones are dropped.
LAYOUT = frozenset(
    (
        *(Base.NewSubfileType, Base.SubfileType, Tiff.IMAGEWIDTH, Tiff.IMAGELENGTH, Tiff.BITSPERSAMPLE),
        *(Tiff.COMPRESSION, Tiff.PHOTOMETRIC_INTERPRETATION, Base.Thresholding, Base.CellWidth, Base.CellLength),
        *(Tiff.FILLORDER, Tiff.STRIPOFFSETS, Base.Orientation, Tiff.SAMPLESPERPIXEL, Tiff.ROWSPERSTRIP),
        *(Tiff.STRIPBYTECOUNTS, Base.MinSampleValue, Base.MaxSampleValue, Tiff.PLANAR_CONFIGURATION),
        *(Base.GrayResponseUnit, Base.GrayResponseCurve, Base.T4Options, Base.T6Options, Tiff.PREDICTOR),
        *(Base.WhitePoint, Base.PrimaryChromaticities, Tiff.COLORMAP, Base.HalftoneHints, Tiff.TILEWIDTH),
        *(Tiff.TILELENGTH, Tiff.TILEOFFSETS, Tiff.TILEBYTECOUNTS, Tiff.SUBIFD, Base.InkSet, Tiff.EXTRASAMPLES),
        *(Tiff.SAMPLEFORMAT, Base.SMinSampleValue, Base.SMaxSampleValue, Tiff.JPEGTABLES, Base.JpegIFOffset),
        *(Base.JpegIFByteCount, Base.YCbCrCoefficients, Tiff.YCBCRSUBSAMPLING, Base.YCbCrPositioning),
        *(Tiff.REFERENCEBLACKWHITE, Tiff.ICCPROFILE),
        *(288, 289, 297, 512, 515, 517, 518, 519, 520, 521),  # free space, page numbers, tables of the old JPEG
    )
)
# Whatever the main directory says of who, when and with what, and its words.
_MAIN = frozenset(
    (
        *(
            Base.DocumentName,
            Tiff.IMAGEDESCRIPTION,
            Base.Make,
            Base.Model,
            Base.PageName,
            Tiff.SOFTWARE,
            Tiff.DATE_TIME,
        ),
        *(Tiff.ARTIST, Base.HostComputer, Tiff.COPYRIGHT, Base.Rating, Base.RatingPercent, Base.SecurityClassification),
        *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject, Base.ImageHistory),
        *(IFD.Exif, IFD.GPSInfo),
    )
)
# Places and densities in the old pixels, and other files.
_FALSE_DETAILS = frozenset(
    (
        *(Base.SubjectLocation, Base.CompressedBitsPerPixel, Base.SpatialFrequencyResponse, Base.RelatedSoundFile),
        *(Base.FocalPlaneXResolution, Base.FocalPlaneYResolution, Base.FocalPlaneResolutionUnit, Base.CFAPattern),
    )
)
_UNNAMED_DETAILS = frozenset((0xA435, 0xA436, 0xA437, 0xA438, 0xA439, 0xA43A, 0xA43B, 0xA43C))  # lens, title, editors
_DETAILS = frozenset(tag.value for tag in Base if 0x8298 <= tag.value < 0xC000) - _FALSE_DETAILS | _UNNAMED_DETAILS
TRUE = {0: _MAIN, IFD.Exif: _DETAILS, IFD.GPSInfo: frozenset(range(32)), IFD.Interop: frozenset((1, 2))}
# Kept by other means, where they are (`metadata.Extras`), or made anew.
CARRIED = frozenset((Tiff.XMP, Tiff.IPTC_NAA_CHUNK, *RESOLUTION, *geotiff.TAGS))

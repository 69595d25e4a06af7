"""Stanford Cars (Krause et al. 2013) by the 130/17/49 class split of the fine-grained few-shot papers, with boxes."""

import io
import re
import struct
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy.io import loadmat

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.layouts import (
    Box,
    Boxes,
    Sources,
    by_class_folder,
    folder_and_file,
    located,
    open_sources,
    write_classes,
)
from fewshot_cli.errors import DataError

ARCHIVES = {
    "car_ims.tgz": "car_ims",
    "cars_train.tgz": "cars_train",
    "cars_test.tgz": "cars_test",
    "car_devkit.tgz": "devkit",
}
ALL, TRAIN, TEST, META = "cars_annos", "cars_train_annos", "cars_test_annos_withlabels", "cars_meta"
MAX_BYTES = 1 << 26  # of a .mat file and of what it unpacks to; the public ones have less than a fifth
_COMPRESSED = 15  # MATLAB's number of this kind of element

# class_names of the development kit in its order, which is not alphabetical; the first is class 1
NAMES: list[str] = (
    """
AM General Hummer SUV 2000|Acura RL Sedan 2012|Acura TL Sedan 2012|Acura TL Type-S 2008|Acura TSX Sedan 2012
Acura Integra Type R 2001|Acura ZDX Hatchback 2012|Aston Martin V8 Vantage Convertible 2012
Aston Martin V8 Vantage Coupe 2012|Aston Martin Virage Convertible 2012|Aston Martin Virage Coupe 2012
Audi RS 4 Convertible 2008|Audi A5 Coupe 2012|Audi TTS Coupe 2012|Audi R8 Coupe 2012|Audi V8 Sedan 1994
Audi 100 Sedan 1994|Audi 100 Wagon 1994|Audi TT Hatchback 2011|Audi S6 Sedan 2011|Audi S5 Convertible 2012
Audi S5 Coupe 2012|Audi S4 Sedan 2012|Audi S4 Sedan 2007|Audi TT RS Coupe 2012|BMW ActiveHybrid 5 Sedan 2012
BMW 1 Series Convertible 2012|BMW 1 Series Coupe 2012|BMW 3 Series Sedan 2012|BMW 3 Series Wagon 2012
BMW 6 Series Convertible 2007|BMW X5 SUV 2007|BMW X6 SUV 2012|BMW M3 Coupe 2012|BMW M5 Sedan 2010
BMW M6 Convertible 2010|BMW X3 SUV 2012|BMW Z4 Convertible 2012|Bentley Continental Supersports Conv. Convertible 2012
Bentley Arnage Sedan 2009|Bentley Mulsanne Sedan 2011|Bentley Continental GT Coupe 2012
Bentley Continental GT Coupe 2007|Bentley Continental Flying Spur Sedan 2007|Bugatti Veyron 16.4 Convertible 2009
Bugatti Veyron 16.4 Coupe 2009|Buick Regal GS 2012|Buick Rainier SUV 2007|Buick Verano Sedan 2012
Buick Enclave SUV 2012|Cadillac CTS-V Sedan 2012|Cadillac SRX SUV 2012|Cadillac Escalade EXT Crew Cab 2007
Chevrolet Silverado 1500 Hybrid Crew Cab 2012|Chevrolet Corvette Convertible 2012|Chevrolet Corvette ZR1 2012
Chevrolet Corvette Ron Fellows Edition Z06 2007|Chevrolet Traverse SUV 2012|Chevrolet Camaro Convertible 2012
Chevrolet HHR SS 2010|Chevrolet Impala Sedan 2007|Chevrolet Tahoe Hybrid SUV 2012|Chevrolet Sonic Sedan 2012
Chevrolet Express Cargo Van 2007|Chevrolet Avalanche Crew Cab 2012|Chevrolet Cobalt SS 2010
Chevrolet Malibu Hybrid Sedan 2010|Chevrolet TrailBlazer SS 2009|Chevrolet Silverado 2500HD Regular Cab 2012
Chevrolet Silverado 1500 Classic Extended Cab 2007|Chevrolet Express Van 2007|Chevrolet Monte Carlo Coupe 2007
Chevrolet Malibu Sedan 2007|Chevrolet Silverado 1500 Extended Cab 2012|Chevrolet Silverado 1500 Regular Cab 2012
Chrysler Aspen SUV 2009|Chrysler Sebring Convertible 2010|Chrysler Town and Country Minivan 2012
Chrysler 300 SRT-8 2010|Chrysler Crossfire Convertible 2008|Chrysler PT Cruiser Convertible 2008
Daewoo Nubira Wagon 2002|Dodge Caliber Wagon 2012|Dodge Caliber Wagon 2007|Dodge Caravan Minivan 1997
Dodge Ram Pickup 3500 Crew Cab 2010|Dodge Ram Pickup 3500 Quad Cab 2009|Dodge Sprinter Cargo Van 2009
Dodge Journey SUV 2012|Dodge Dakota Crew Cab 2010|Dodge Dakota Club Cab 2007|Dodge Magnum Wagon 2008
Dodge Challenger SRT8 2011|Dodge Durango SUV 2012|Dodge Durango SUV 2007|Dodge Charger Sedan 2012
Dodge Charger SRT-8 2009|Eagle Talon Hatchback 1998|FIAT 500 Abarth 2012|FIAT 500 Convertible 2012
Ferrari FF Coupe 2012|Ferrari California Convertible 2012|Ferrari 458 Italia Convertible 2012
Ferrari 458 Italia Coupe 2012|Fisker Karma Sedan 2012|Ford F-450 Super Duty Crew Cab 2012
Ford Mustang Convertible 2007|Ford Freestar Minivan 2007|Ford Expedition EL SUV 2009|Ford Edge SUV 2012
Ford Ranger SuperCab 2011|Ford GT Coupe 2006|Ford F-150 Regular Cab 2012|Ford F-150 Regular Cab 2007
Ford Focus Sedan 2007|Ford E-Series Wagon Van 2012|Ford Fiesta Sedan 2012|GMC Terrain SUV 2012|GMC Savana Van 2012
GMC Yukon Hybrid SUV 2012|GMC Acadia SUV 2012|GMC Canyon Extended Cab 2012|Geo Metro Convertible 1993
HUMMER H3T Crew Cab 2010|HUMMER H2 SUT Crew Cab 2009|Honda Odyssey Minivan 2012|Honda Odyssey Minivan 2007
Honda Accord Coupe 2012|Honda Accord Sedan 2012|Hyundai Veloster Hatchback 2012|Hyundai Santa Fe SUV 2012
Hyundai Tucson SUV 2012|Hyundai Veracruz SUV 2012|Hyundai Sonata Hybrid Sedan 2012|Hyundai Elantra Sedan 2007
Hyundai Accent Sedan 2012|Hyundai Genesis Sedan 2012|Hyundai Sonata Sedan 2012|Hyundai Elantra Touring Hatchback 2012
Hyundai Azera Sedan 2012|Infiniti G Coupe IPL 2012|Infiniti QX56 SUV 2011|Isuzu Ascender SUV 2008|Jaguar XK XKR 2012
Jeep Patriot SUV 2012|Jeep Wrangler SUV 2012|Jeep Liberty SUV 2012|Jeep Grand Cherokee SUV 2012|Jeep Compass SUV 2012
Lamborghini Reventon Coupe 2008|Lamborghini Aventador Coupe 2012|Lamborghini Gallardo LP 570-4 Superleggera 2012
Lamborghini Diablo Coupe 2001|Land Rover Range Rover SUV 2012|Land Rover LR2 SUV 2012|Lincoln Town Car Sedan 2011
MINI Cooper Roadster Convertible 2012|Maybach Landaulet Convertible 2012|Mazda Tribute SUV 2011
McLaren MP4-12C Coupe 2012|Mercedes-Benz 300-Class Convertible 1993|Mercedes-Benz C-Class Sedan 2012
Mercedes-Benz SL-Class Coupe 2009|Mercedes-Benz E-Class Sedan 2012|Mercedes-Benz S-Class Sedan 2012
Mercedes-Benz Sprinter Van 2012|Mitsubishi Lancer Sedan 2012|Nissan Leaf Hatchback 2012|Nissan NV Passenger Van 2012
Nissan Juke Hatchback 2012|Nissan 240SX Coupe 1998|Plymouth Neon Coupe 1999|Porsche Panamera Sedan 2012
Ram C/V Cargo Van Minivan 2012|Rolls-Royce Phantom Drophead Coupe Convertible 2012|Rolls-Royce Ghost Sedan 2012
Rolls-Royce Phantom Sedan 2012|Scion xD Hatchback 2012|Spyker C8 Convertible 2009|Spyker C8 Coupe 2009
Suzuki Aerio Sedan 2007|Suzuki Kizashi Sedan 2012|Suzuki SX4 Hatchback 2012|Suzuki SX4 Sedan 2012
Tesla Model S Sedan 2012|Toyota Sequoia SUV 2012|Toyota Camry Sedan 2012|Toyota Corolla Sedan 2012
Toyota 4Runner SUV 2012|Volkswagen Golf Hatchback 2012|Volkswagen Golf Hatchback 1991|Volkswagen Beetle Hatchback 2012
Volvo C30 Hatchback 2012|Volvo 240 Sedan 1993|Volvo XC90 SUV 2007|smart fortwo Convertible 2012
""".strip()
    .replace("\n", "|")
    .split("|")
)


class StanfordCars(DatasetBuilder[Options]):
    """Stanford Cars: 196 models by year, 130 train, 17 val and 49 test.

    Made with the lists it has boxes, and recipes choose `crop: box | raw`; published few-shot results are of uncropped
    images, those of the official train and test halves together. The dataset's address is gone, so nothing is
    downloaded. --from takes a folder that holds, unpacked or not, one of:

    - car_ims.tgz and cars_annos.mat;
    - cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat (the kit's own
      cars_test_annos.mat has no classes);
    - class folders, named by the class (`AM General Hummer SUV 2000`) or its number from 1 to 196, also in train/ and
      test/, whose images are put together; these give no boxes. A tar or zip of them works too.

    Classes may be absent, but one that is present must have all listed images.
    """

    source = (
        "a folder with car_ims.tgz and cars_annos.mat, or with cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
        "cars_test_annos_withlabels.mat, or class folders; `fsl show dataset stanford_cars` describes them"
    )
    licence = "Stanford Cars by Krause, Stark, Deng and Fei-Fei; for research"

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write the classes present, in the order of the published split."""
        path = sources[0]
        with open_sources(sources, ARCHIVES, writer.target.parent) as files:
            # a browser's second copy is "cars_annos (1).mat"
            mats = {re.sub(r" ?\(\d+\)$", "", PurePosixPath(n).stem): n for n in files if n.endswith(".mat")}
            folders = by_class_folder(files)
            kit = next((mats[mat] for mat in (META, ALL) if mat in mats), None)
            names = _class_names(files[kit], kit) if kit else NAMES
            if "car_ims" in folders and (ALL in mats or not {"cars_train", "cars_test"} & set(folders)):
                images = located(path, files, _listed(path, files, mats, {ALL: "car_ims"}))
            elif {"cars_train", "cars_test"} & set(folders):
                images = located(path, files, _listed(path, files, mats, {TRAIN: "cars_train", TEST: "cars_test"}))
            else:
                images = _by_folder(path, folders, names)
            titles = {str(k): name for k, name in enumerate(names, 1)}
            if not write_classes("stanford_cars", files, images, titles, writer):
                raise DataError(f"{path}: holds none of Stanford Cars' 196 classes; --from takes {self.source}")


def _mat(files: Source, name: str, variable: str) -> np.ndarray:
    """A struct or cell array of a .mat file."""
    data = files.read(name)
    try:
        if len(data) > MAX_BYTES or _unpacked(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        return np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable])
    except Exception as error:  # SciPy does not document what it raises on a damaged file
        raise _damaged(files, name, error) from error


def _damaged(files: Source, name: str, error: Exception) -> DataError:
    return DataError(f"{files.path}/{name}: is not one of Stanford Cars' lists ({error!r}); get it again")


def _unpacked(data: bytes) -> int:
    """Bytes that the compressed elements of a .mat file unpack to, counted up to `MAX_BYTES`."""
    order, place, total = "<" if data[126:128] == b"IM" else ">", 128, 0
    while place + 8 <= len(data) and total <= MAX_BYTES:
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind == _COMPRESSED:
            total += len(zlib.decompressobj().decompress(data[place + 8 : place + 8 + size], MAX_BYTES + 1))
        place += 8 + size
    return total


def _class_names(files: Source, name: str) -> list[str]:
    names = [" ".join(str(cls).split()) for cls in _mat(files, name, "class_names")]
    different = len(set(names) - {""})
    if different != len(NAMES) or len(names) != len(NAMES):
        raise _damaged(files, name, ValueError(f"it has {len(names):,} class names, {different:,} different"))
    return names


def _listed(path: Path, files: Sources, mats: dict[str, str], lists: dict[str, str]) -> Boxes:
    """Class → `<folder>/<file>` → box, for every image of the lists, given with the folders that they describe."""
    if missing := [f"{mat}.mat" for mat in lists if mat not in mats]:
        raise DataError(
            f"{path}: has {' and '.join(lists.values())}, but no {' and no '.join(missing)} to say the classes; "
            "put it beside them"
        )
    out: Boxes = defaultdict(dict)
    for mat, folder in lists.items():
        name = mats[mat]
        for row in _mat(files[name], name, "annotations"):
            try:
                key, cls, box = _record(row, folder)
            except Exception as error:  # a hostile array can raise anything
                raise _damaged(files[name], name, error) from error
            out[cls][key] = box
    return out


def _record(row: Any, folder: str) -> tuple[str, str, Box]:
    """`<folder>/<file>`, class and box of one image; MATLAB counts pixels from 1."""
    if "relative_im_path" in row.dtype.names:
        key = folder_and_file(str(row["relative_im_path"]))
    else:
        key = f"{folder}/{row['fname']}"
    number, left, top, right, bottom = (int(row[k]) for k in ("class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
    if not 1 <= number <= len(NAMES):
        raise ValueError(f"class {number} of {key}")
    return key, str(number), (left - 1, top - 1, right, bottom)


def _by_folder(path: Path, folders: dict[str, list[str]], names: list[str]) -> Boxes:
    """Images of class folders by the class's number."""
    numbers = {_letters(name): str(k) for k, name in enumerate(names, 1)}
    out: Boxes = defaultdict(dict)
    for folder, files in folders.items():
        number = str(int(folder)) if re.fullmatch(r"[0-9]{1,3}", folder) else numbers.get(_letters(folder))
        if number == "0":
            raise DataError(
                f"{path}: has a class folder {folder}, but Stanford Cars' classes are numbered from 1 to 196; "
                "rename the folders"
            )
        if number:
            out[number] |= dict.fromkeys(files)
    return out


def _letters(name: str) -> str:
    """Letters and digits of a name, because one name has a /, which no folder's name can have."""
    return re.sub("[^a-z0-9]", "", name.casefold())

"""The list of all software in an image, as SPDX 2.3 JSON (spdx.github.io/spdx-spec/v2.3)."""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any


def document(name: str, version: str, epoch: int, packages: Mapping[str, str], files: Mapping[str, str]) -> str:
    """The document's text. packages: name to version. files: what the image was made into, name to sha256.

    The same input gives the same text: its identity is a digest of what it lists.
    """
    listed = [_package(package, packages[package]) for package in sorted(packages)]
    digest = hashlib.sha256(json.dumps([name, version, listed, dict(files)], sort_keys=True).encode()).hexdigest()
    image = {
        "SPDXID": "SPDXRef-image", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False, "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION", "primaryPackagePurpose": "FIRMWARE",
    }  # fmt: skip
    made: list[dict[str, Any]] = [
        {
            "SPDXID": f"SPDXRef-file-{number}", "fileName": f"./{file}",
            "checksums": [{"algorithm": "SHA256", "checksumValue": files[file]}],
            "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
        }
        for number, file in enumerate(sorted(files), 1)
    ]  # fmt: skip
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
    relations += [_relation("SPDXRef-image", "CONTAINS", package["SPDXID"]) for package in listed]
    relations += [_relation(file["SPDXID"], "GENERATED_FROM", "SPDXRef-image") for file in made]
    doc = {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"{name}-{version}",
        "documentNamespace": f"urn:confine:firmware:{digest}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "creators": ["Tool: confine-firmware"],
        },
        "packages": [image, *listed], "files": made, "relationships": relations,
    }  # fmt: skip
    return json.dumps(doc, indent=1, sort_keys=True) + "\n"


def _package(name: str, version: str) -> dict[str, Any]:
    # OpenWrt's package lists name no licence: NOASSERTION says that nothing was looked at.
    return {
        "SPDXID": "SPDXRef-package-" + re.sub("[^A-Za-z0-9.-]", "-", name), "name": name, "versionInfo": version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
    }  # fmt: skip


def _relation(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}

# Copyright (c) 2026, The ainode.cpu authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a corpus out of apt's package lists, which every Debian machine has: corpus.py [--packages N] LISTS CORPUS.json

LISTS is a directory with *_Packages and *_Translation-en, uncompressed. Written, always the same for the same lists and N:

packages    up to N programs: name, synopsis, text (the first sentence of the long description), section, size (installed, KiB), users (how many
            packages depend on it) and tags (debtags)
queries     up to one a package: a later sentence of its description, {text, package (its place), held_out}. The text of no package holds it,
            what names the package is cut from it, and a sentence that stands in several descriptions is taken from none. A fifth is held out:
            no model is trained on these, nor on another sentence about the same packages

A package stands for its source package: of gimp, gimp-data and libgimp2.0 there is gimp.
"""

from __future__ import annotations

import argparse
import collections
import glob
import hashlib
import json
import os
import re
import sys

# What a person would look for by what it does; libraries are looked for by name.
SECTIONS = {
    "admin", "comm", "database", "devel", "editors", "education", "electronics", "embedded", "games", "gnome", "gnustep", "graphics", "hamradio", "httpd",
    "interpreters", "kde", "mail", "math", "misc", "net", "news", "otherosfs", "science", "shells", "sound", "tex", "text", "utils", "vcs", "video", "web",
    "x11", "xfce",
}  # fmt: skip
AUXILIARY = re.compile(r"lib|.*-(dev|doc|docs|dbg|dbgsym|data|common|examples|core|plugins?|l10n|headers|source)$")
LONGEST = 600  # characters of a description that are kept
WORD = re.compile(r"[a-z0-9]+")


def stanzas(path):
    """Yield each stanza of a Debian control file as {field: value}."""
    fields, key = {}, None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            line = line.rstrip("\n")
            if line[:1] in (" ", "\t") and key:
                fields[key] += "\n" + line
            elif line:
                key, _colon, value = line.partition(":")
                fields[key] = value.strip()
            elif fields:
                yield fields
                fields, key = {}, None
    if fields:
        yield fields


def sentences(description):
    """Return the sentences of a long description: of its paragraphs of prose, not of its lists."""
    found = []
    for paragraph in re.split(r"\n \.(?:\n|$)", description.partition("\n")[2]):
        prose = [line[1:] for line in paragraph.split("\n") if line[:1] == " "]
        if any(line[:1] in (" ", "*", "-", "+", "o") and line[1:2] in (" ", "*", "-") for line in prose):
            continue
        found += re.split(r"(?<=[.!?])\s+(?=[A-Z0-9(\"'])", " ".join(" ".join(prose).split()))
    return [sentence for sentence in found if sentence]


def without_name(sentence, *names):
    """Return the sentence without the words that are in these names."""
    named = {word for name in names for word in WORD.findall(name.lower()) if not word.isdigit()} | {name.lower() for name in names}
    kept = [word for word in sentence.split() if not (set(WORD.findall(word.lower())) & named)]
    return " ".join(kept)


def programs(lists):
    """Return {source package: (stanza of the package that stands for it, its description)} and how many packages depend on each."""
    packages, descriptions = {}, {}
    for path in sorted(glob.glob(os.path.join(lists, "*_Packages"))):
        packages.update((fields["Package"], fields) for fields in stanzas(path))
    for path in sorted(glob.glob(os.path.join(lists, "*_Translation-en"))):
        descriptions.update(((fields["Package"], fields["Description-md5"]), fields["Description-en"]) for fields in stanzas(path))
    users, chosen = collections.Counter(), {}
    for name, fields in packages.items():
        needed = ", ".join(fields.get(key, "") for key in ("Pre-Depends", "Depends", "Recommends"))
        users.update({match.group(1) for match in re.finditer(r"(?:^|[,|]\s*)([a-z0-9][a-z0-9+.-]+)", needed)})
        description = descriptions.get((name, fields.get("Description-md5")))
        section = fields.get("Section", "").rpartition("/")[2]
        source = fields.get("Source", name).split()[0]
        if not description or section not in SECTIONS or (AUXILIARY.match(name) and name != source):
            continue
        # The package of the source's name first, then the shortest.
        rank = (name != source, len(name), name)
        if source not in chosen or rank < chosen[source][0]:
            chosen[source] = (rank, fields, description)
    return {source: (fields, description) for source, (_rank, fields, description) in chosen.items()}, users


def corpus(lists, count):
    """Return the corpus of up to `count` packages, as the program writes it."""
    found, users = programs(lists)
    # An even sample, the same on every machine.
    sources = sorted(sorted(found, key=lambda source: hashlib.sha256(source.encode()).digest())[:count])
    told = {source: sentences(found[source][1]) for source in sources}
    seen = collections.Counter(sentence for source in sources for sentence in set(told[source]))
    packages, queries = [], []
    for source in sources:
        fields, description = found[source]
        synopsis, said = description.partition("\n")[0].strip(), told[source]
        held_out = hashlib.sha256(b"held out" + source.encode()).digest()[0] < 51
        for number, sentence in enumerate(said):
            asked = without_name(sentence, fields["Package"], source)
            if number and seen[sentence] == 1 and 6 <= len(asked.split()) <= 40:
                queries.append({"text": asked, "package": len(packages), "held_out": held_out})
                del said[number]
                break
        packages.append(
            {
                "name": fields["Package"], "synopsis": synopsis, "text": " ".join(said)[:LONGEST], "section": fields["Section"].rpartition("/")[2],
                "size": int(fields.get("Installed-Size", 0)), "users": users[fields["Package"]],
                "tags": sorted(tag.strip() for tag in fields.get("Tag", "").split(",") if "::" in tag),
            }
        )  # fmt: skip
    return {"packages": packages, "queries": queries}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=6000, help="how many packages at most (default: %(default)s)")
    parser.add_argument("lists", metavar="LISTS")
    parser.add_argument("corpus", metavar="CORPUS.json")
    options = parser.parse_args()
    made = corpus(options.lists, options.packages)
    if len(made["queries"]) < 100:
        sys.exit(f"{options.lists} has {len(made['packages'])} packages with English descriptions, {len(made['queries'])} to ask for: at least 100 are needed")
    temporary = options.corpus + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(made, file)
    os.replace(temporary, options.corpus)
    held_out = sum(query["held_out"] for query in made["queries"])
    print(f"{len(made['packages'])} packages, {len(made['queries']) - held_out} queries to learn from and {held_out} held out")


if __name__ == "__main__":
    main()

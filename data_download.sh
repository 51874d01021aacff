#!/usr/bin/env bash
# Downloads NIH ChestX-ray14 and prepares it, one archive at a time; see --help.
# Written for bash 3.2 and later, which macOS still has.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
mirror="https://huggingface.co/datasets/alkzar90/NIH-Chest-X-ray-dataset/resolve/main/data"
NIH_URL=${CXR_SEAM_NIH_URL:-https://nihcc.box.com/shared/static}
TABLES_URL=${CXR_SEAM_TABLES_URL:-$mirror}
attempts=5

help() {
    cat <<'TEXT'
Usage: data_download.sh [options]

Downloads NIH ChestX-ray14: the four tables, then archive by archive: download, compare the checksum, add the images
to the store as small grey squares, delete the archive. Run it again after an interruption: it does what is missing.
All twelve archives are about 42 GB of traffic; 5 GB of free disk suffice, plus the store (7.4 GB at 256 pixels).

  --dest DIR          where everything goes                                     (default: data)
  --archives LIST     which of the twelve, such as 1-12, 3 or 1,4-6             (default: 1-12)
  --source NAME       nih: NIH's own archives, .tar.gz;
                      huggingface: a mirror, .zip, for which no checksums are known   (default: nih)
  --size N            side of the prepared images in pixels                     (default: 256)
  --tables-only       download only the tables
  --output-originals    keep the archives in DIR/archives
  --checksums FILE    md5 sums that replace or add to the known ones, as md5sum prints them: "md5  name"
  --help              this text

Writes DIR/Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt and DIR/store_N.
Environment: PYTHON names the interpreter (default python3); CXR_SEAM_NIH_URL and CXR_SEAM_TABLES_URL replace the
addresses of the archives and of the mirror.

The data: NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC; cite X. Wang et al., ChestX-ray8, CVPR 2017.
TEXT
}

tell() { printf '%s\n' "$*" >&2; }
fail() { tell "data_download.sh: $*"; exit 1; }
misuse() { tell "data_download.sh: $* (see --help)"; exit 2; }

# Number, Box's identifier and md5 of NIH's twelve archives.
nih_archives() {
    cat <<'TABLE'
1 vfk49d74nhbxq3nqjg0900w5nvkorp5c fe8ed0a6961412fddcbb3603c11b3698
2 i28rlmbvmfjbl8p2n3ril0pptcmcu9d1 ab07a2d7cbe6f65ddd97b4ed7bde10bf
3 f1t00wrtdk94satdfb9olcolqx20z2jp 2301d03bde4c246388bad3876965d574
4 0aowwzs5lhjrceb3qp67ahp0rd1l1etg 9f1b7f5aae01b13f4bc8e2c44a4b8ef6
5 v5e3goj22zr6h8tzualxfsqlqaygfbsn 1861f3cd0ef7734df8104f2b0309023b
6 asi7ikud9jwnkrnkj99jnpfkjdes7l6l 456b53a8b351afd92a35bc41444c58c8
7 jn1b4mw4n6lnh74ovmcjb8y48h8xj07n 1075121ea20a137b87f290d6a4a5965e
8 tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j b61f34cec3aa69f295fbb593cbd9d443
9 upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj 442a3caa61ae9b64e61c561294d1e183
10 l6nilvfa9cg3s28tqv1qc1olm3gnz54p 09ec81c4c31e32858ad8cf965c494b74
11 hhq8fkdgvcari67vfhs7ppg2w6ni4jze 499aefc67207a5a97692424cf5dbeed5
12 ioqwiy20ihqwyr8pf4c24eazhh281pbu dc9fda1757c2de0032b63347a7d2895c
TABLE
}

# md5 of the tables as most copies hold them; releases differ, so another one is worth a warning only.
known_tables() {
    cat <<'TABLE'
c288912caf65ab8b6c7aff6717d11005 BBox_List_2017.csv
27d223bb367648f1fd40e28dd42a0af3 Data_Entry_2017_v2020.csv
adeeabf20ea2a8eb66ced87b78434400 test_list.txt
067e3a84206964892e6300e4a4c0a205 train_val_list.txt
TABLE
}

# expected_md5 NAME: prints the checksum that NAME should have, or nothing where none is known.
expected_md5() {
    local sum=""
    if [ -n "$checksums" ]; then
        sum=$(awk -v name="$1" '{ n = $2; sub(/^\*/, "", n); if (n == name) print tolower($1) }' "$checksums")
    fi
    if [ -z "$sum" ]; then
        sum=$({ known_tables; nih_archives | awk '{ printf "%s images_%03d.tar.gz\n", $3, $1 }'; } |
            awk -v name="$1" '$2 == name { print $1 }')
    fi
    printf '%s' "$sum"
}

md5_of() {
    "$PYTHON" - "$1" <<'CODE'
import hashlib, sys
digest = hashlib.md5()
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
print(digest.hexdigest())
CODE
}

is_web_page() { head -c 512 "$1" | LC_ALL=C grep -aqiE '<(!doctype|html)'; }

# fetch URL FILE: downloads to FILE.part, resuming what an earlier try left, and renames.
fetch() {
    local url=$1 file=$2 try status code
    for ((try = 1; try <= attempts; try++)); do
        status=0
        code=$(curl --fail --location --continue-at - --retry 3 --retry-max-time 300 --connect-timeout 30 --speed-limit 1000 \
            --speed-time 60 "${meter[@]}" --output "$file.part" --write-out '%{http_code}' "$url") || status=$?
        if [ "$status" -eq 0 ] || [ "$code" = 416 ]; then # 416: nothing is left to fetch; the checks will tell
            [ -e "$file.part" ] || : >"$file.part"
            mv "$file.part" "$file"
            return
        fi
        case $status in
            22) fail "$url answers with HTTP status $code; try again later or with another --source" ;;
            23) fail "cannot write $file.part; make room on the disk and run again, it will resume" ;;
            33 | 36) rm -f "$file.part" ;; # the server cannot resume: from the beginning
            *) sleep "$try" ;;
        esac
    done
    fail "$url could not be fetched in $attempts tries (curl status $status); run again, it will resume"
}

fetch_table() {
    local name=$1 expected
    if [ ! -s "$dest/$name" ]; then
        tell "fetching $name"
        fetch "$TABLES_URL/$name" "$dest/.$name.new"
        if is_web_page "$dest/.$name.new"; then
            rm -f "$dest/.$name.new"
            fail "$TABLES_URL/$name is a web page, not the table; the mirror may have moved"
        fi
        if ! head -n 1 "$dest/.$name.new" | grep -qE 'Image|\.png'; then # a header or, in the lists, a name
            rm -f "$dest/.$name.new"
            fail "$TABLES_URL/$name is empty or another file, not the table; try again later or with another --source"
        fi
        mv "$dest/.$name.new" "$dest/$name"
    fi
    expected=$(expected_md5 "$name")
    if [ -n "$expected" ] && [ "$(md5_of "$dest/$name")" != "$expected" ]; then
        tell "warning: $dest/$name is not the release this project was checked with; it is kept"
    fi
}

# check_archive FILE URL: deletes and refuses a web page and a wrong checksum.
check_archive() {
    local file=$1 url=$2 name expected actual
    name=$(basename "$file")
    if is_web_page "$file"; then
        rm -f "$file"
        fail "$url is a web page, not an archive; it may have moved: try again later or with another --source"
    fi
    expected=$(expected_md5 "$name")
    if [ -z "$expected" ]; then
        tell "no checksum is known for $name; it is used as it came"
        if ! "$PYTHON" -c 'import sys, zipfile; sys.exit(not zipfile.is_zipfile(sys.argv[1]))' "$file"; then
            rm -f "$file"
            fail "$name is no whole zip archive and was deleted; run again"
        fi
        return
    fi
    actual=$(md5_of "$file")
    if [ "$actual" != "$expected" ]; then
        rm -f "$file"
        fail "$name has the md5 $actual instead of $expected and was deleted; run again"
    fi
}

# time_left DONE LEFT: says how long LEFT further archives will take, from what DONE took since SECONDS was set to 0.
time_left() {
    (($1 > 0)) || return 0
    local minutes=$((SECONDS * $2 / $1 / 60 + 1))
    printf ', about %d h %02d min left' $((minutes / 60)) $((minutes % 60))
}

do_archive() {
    local number=$1 part file url status=0
    part=$(printf 'images_%03d' "$number")
    if [ -e "$store/index.json" ] && grep -qsx "$part" "$store/finished.txt"; then
        tell "$part is in $store already"
        skipped=$((skipped + 1))
        return
    fi
    if [ "$source" = nih ]; then
        file="$dest/archives/$part.tar.gz"
        url="$NIH_URL/$(nih_archives | awk -v n="$number" '$1 == n { print $2 }').gz"
    else
        file="$dest/archives/$part.zip"
        url="$TABLES_URL/images/$part.zip"
    fi
    if [ ! -e "$file" ]; then
        tell "fetching $part ($place of $count$(time_left $((place - skipped - 1)) $((count - place + 1))))"
        fetch "$url" "$file"
    fi
    check_archive "$file" "$url"
    tell "preparing $part"
    PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" \
        "$PYTHON" -m cxr_seam prepare "$file" --cache "$store" --size "$size" || status=$?
    case $status in
        0) ;;
        3) incomplete="$incomplete $part" ;; # what could not be read has been told
        *) exit "$status" ;;
    esac
    # A broken image in an archive of the right checksum will not get better; in another one it may.
    if [ "$status" -eq 0 ] || [ -n "$(expected_md5 "$(basename "$file")")" ]; then
        [ "$keep" = yes ] || mv "$file" "$file.done" # were it stopped now, the next run would delete it
        printf '%s\n' "$part" >>"$store/finished.txt"
        rm -f "$file.done"
    else
        rm -f "$file"
    fi
}

# numbers LIST: "1,4-6" to 1 4 5 6.
numbers() {
    local piece first last
    [[ $1 =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] || return 1
    for piece in ${1//,/ }; do
        first=$((10#${piece%-*})) last=$((10#${piece#*-}))
        ((first >= 1 && last <= 12 && first <= last)) || return 1
        seq "$first" "$last"
    done
}

dest=data archives=1-12 source=nih size=256 tables_only=no output_dir=no checksums=""
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) help; exit 0 ;;
        --tables-only) tables_only=yes; shift; continue ;;
        --output-originals) output_dir=yes; shift; continue ;;
        --dest | --archives | --source | --size | --checksums) [ $# -ge 2 ] || misuse "$1 needs a value" ;;
        *) misuse "unknown option $1" ;;
    esac
    case $1 in
        --dest) dest=$2 ;;
        --archives) archives=$2 ;;
        --source) source=$2 ;;
        --size) size=$2 ;;
        --checksums) checksums=$2 ;;
    esac
    shift 2
done

chosen=$(numbers "$archives") || misuse "--archives takes numbers from 1 to 12, such as 1-12 or 1,4-6, not '$archives'"
[[ $source =~ ^(nih|huggingface)$ ]] || misuse "--source is nih or huggingface, not '$source'"
[[ $size =~ ^[1-9][0-9]*$ ]] || misuse "--size is a number of pixels, not '$size'"
[ -n "$dest" ] || misuse "--dest needs a folder"
[ -z "$checksums" ] || [ -r "$checksums" ] || misuse "--checksums: cannot read $checksums"
command -v curl >/dev/null || fail "curl is missing; install it"
command -v "$PYTHON" >/dev/null || fail "$PYTHON is missing; set PYTHON to the interpreter of your environment"
meter=(--show-error) # curl's own meter shows the time left
[ -t 2 ] || meter+=(--silent)

store="$dest/store_$size"
mkdir -p "$dest/archives" || fail "cannot make the folder $dest"
for table in BBox_List_2017.csv Data_Entry_2017_v2020.csv test_list.txt train_val_list.txt; do
    fetch_table "$table"
done
if [ "$tables_only" = no ]; then
    PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -c 'import cxr_seam.prepare' 2>/dev/null ||
        fail "$PYTHON cannot import cxr_seam; run '$PYTHON -m pip install -r $here/requirements.txt' first"
    rm -f "$dest"/archives/*.done
    count=$(($(wc -w <<<"$chosen"))) place=0 skipped=0 incomplete="" SECONDS=0
    for number in $chosen; do
        place=$((place + 1))
        do_archive "$number"
    done
    [ -z "$incomplete" ] || fail "some images of$incomplete could not be read, see above; the others are in $store"
    tell "the images are in $store, the tables in $dest"
else
    tell "the tables are in $dest"
fi
rmdir "$dest/archives" 2>/dev/null || true

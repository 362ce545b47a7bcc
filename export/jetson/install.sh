#!/bin/sh
# Installs an edgedet bundle on the device that it was made for, beside the device's own TensorRT.
#
#   tar -xzOf B.tar.gz edgedet-bundle/install.sh | sh -s -- B.tar.gz [OPTION]... [-- OPTION OF self-test...]
#
#   --dir DIR         where to; `edgedet` in the home folder when left out
#   --runtime NAME    tensorrt or onnxruntime; the bundle's own when left out
#   --python PYTHON   the interpreter to build on; python3 when left out
#   --sha256 HEX      what the archive must hash to
#   --serve HOST:PORT also install what serving takes, and leave a unit for systemd that serves there
#   --no-self-test    make it the current installation without a proof
#   --check           install nothing, only say whether this device can take a bundle
#
# It leaves DIR/bundle-DIGEST-RUNTIME: the files of the bundle, a virtual environment, the launcher `edgedet`, the engine and
# self-test.json. DIR/current is a link to the last one that passed its self-test. Everything is made in a folder beside it that
# is renamed at the end, so whatever cuts this off leaves what was there before.
set -eu
umask 022

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

main() {
    archive='' dir=$HOME/edgedet runtime='' python=python3 sha256='' serve='' check='' proof=yes
    while [ $# -gt 0 ]; do
        case $1 in
        --dir | --runtime | --python | --sha256 | --serve)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in --dir) dir=$2 ;; --runtime) runtime=$2 ;; --python) python=$2 ;; --sha256) sha256=$2 ;; *) serve=$2 ;; esac
            shift
            ;;
        --check) check=yes ;;
        --no-self-test) proof='' ;;
        --)
            shift
            break
            ;;
        -*) die "unknown option $1: its first lines say which there are" ;;
        *) archive=$1 ;;
        esac
        shift
    done
    case $serve in '' | *?:[0-9]*) ;; *) die "--serve takes HOST:PORT, as in 0.0.0.0:8000, got $serve" ;; esac
    case $runtime in '' | tensorrt | onnxruntime) ;; *) die "no runtime is called $runtime: give tensorrt or onnxruntime" ;; esac
    require_python
    [ "$runtime" != tensorrt ] || require_tensorrt "$python"
    [ -z "$check" ] || return 0
    install
    if [ -n "$proof" ]; then
        say "testing $name; $dir/current stays as it is until it has passed"
        "$goal/edgedet" self-test "$goal" --runtime "$runtime" "$@" || exit
    fi
    "$python" -c 'import os, sys; os.symlink(sys.argv[1], sys.argv[2]); os.replace(sys.argv[2], sys.argv[3])' \
        "$name" "$dir/.current-$$" "$dir/current"
    say "$dir/current is $name"
    [ -z "$serve" ] || service
}

# The unit names `current`, so that the next bundle is served after a restart.
service() {
    model=$dir/current/engine
    [ -d "$model" ] || model=$dir/current/edgedet-bundle/artifact
    sed -e "s|@DIR@|$dir|; s|@MODEL@|$model|; s|@RUNTIME@|$runtime|; s|@HOST@|${serve%:*}|; s|@PORT@|${serve##*:}|" \
        -e "s|@USER@|${SUDO_USER:-$(id -un)}|" "$goal/edgedet-bundle/edgedet.service" >"$dir/.service-$$"
    mv "$dir/.service-$$" "$dir/edgedet.service"
    say "to serve at $serve from now on: sudo systemctl enable --now $dir/edgedet.service"
}

# A unit that serves `current` would find nothing to serve with in an installation without what serving takes.
require_service() {
    [ -z "$serve" ] && [ -z "$check" ] && [ -f "$dir/edgedet.service" ] || return 0
    at=$(sed -n 's/^ExecStart=.* --host \(.*\) --port \(.*\)$/\1:\2/p' "$dir/edgedet.service")
    die "$dir/edgedet.service serves what is installed here: add --serve ${at:-HOST:PORT}, or remove that file first"
}

require_python() {
    command -v "$python" >/dev/null || die "no $python here: install it (apt-get install python3 python3-venv)"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" --version 2>&1) is too old: edgedet needs 3.10, which JetPack 6 brings"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python has no venv: install it (apt-get install python3-venv)"
}

# Only whether it is there: it can be imported where the driver is, which an image that is being built does not have.
require_tensorrt() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("tensorrt") is None)' ||
        die "no TensorRT for $1: install JetPack's (apt-get install python3-libnvinfer), or give --runtime onnxruntime"
}

install() {
    [ -f "$archive" ] || die "no bundle at ${archive:-the place that was not given}"
    digest=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$archive")
    [ "$digest" = "${sha256:-$digest}" ] || die "$archive has sha256 $digest, expected $sha256: copy it again"
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    require_service
    sweep
    temporary=$dir/.installing-$$
    trap 'rm -rf "$temporary"' EXIT
    trap 'exit 1' HUP INT PIPE TERM
    mkdir "$temporary"
    tar -xzf "$archive" -C "$temporary" || die "$archive cannot be unpacked: copy it again, and see that the disk has room"
    facts=$(verified "$temporary/edgedet-bundle") || exit 1
    runtime=${runtime:-${facts% *}} offline=${facts#* }
    name=bundle-$(printf %.12s "$digest")-$runtime${serve:+-serve}
    goal=$dir/$name
    if [ -d "$goal" ]; then
        if verified "$goal/edgedet-bundle" >/dev/null; then
            say "$goal is there already"
            rm -f "$goal/self-test.json"
            return
        fi
        mv "$goal" "$dir/.removed-$$"
        rm -rf "$dir/.removed-$$"
    fi
    environment "$temporary"
    sync
    # Not mv, which would move it into a folder that another installer has made there meanwhile.
    "$python" -c 'import os, sys; os.rename(sys.argv[1], sys.argv[2])' "$temporary" "$goal"
    say "installed $goal"
}

# What installers that were killed have left; their process numbers are in the names.
sweep() {
    for left in "$dir"/.installing-* "$dir"/.removed-* "$dir"/.current-* "$dir"/.service-*; do
        [ -e "$left" ] || [ -L "$left" ] || continue
        kill -0 "${left##*-}" 2>/dev/null || rm -rf "$left"
    done
}

# Every file against the list in bundle.json. Prints the runtime that the bundle is for, and whether it brings all wheels.
verified() {
    "$python" - "$1" <<'PYTHON'
import hashlib, json, os, sys

folder = sys.argv[1]
paths = [os.path.join(top, name) for top, folders, names in os.walk(folder) for name in names + folders]
strange = [path for path in paths if os.path.islink(path) or not (os.path.isfile(path) or os.path.isdir(path))]
found = {os.path.relpath(path, folder) for path in paths if not os.path.isdir(path)} - {"bundle.json"}
try:
    with open(os.path.join(folder, "bundle.json"), "rb") as file:
        bundle = json.load(file)
    listed, facts = bundle["files"], (bundle["target"]["runtime"], "offline" if bundle["offline"] else "online")
except (OSError, ValueError, KeyError) as error:
    sys.exit(f"install.sh: {folder}: no bundle.json can be read there ({error!r}): copy the bundle again")
for name in sorted(found ^ set(listed)) + strange:
    sys.exit(f"install.sh: refused: {name} is {'not in the bundle' if name in listed else 'not in the list'} of bundle.json")
for name, digest in listed.items():
    with open(os.path.join(folder, name), "rb") as file:
        if hashlib.sha256(file.read()).hexdigest() != digest:
            sys.exit(f"install.sh: refused: {name} is not the file that the bundle was made with: copy it again")
print(*facts)
PYTHON
}

# A virtual environment that sees the device's TensorRT, with edgedet and what it needs.
environment() {
    say "making a virtual environment"
    "$python" -m venv --system-site-packages "$1/venv" >/dev/null || die "$python cannot make a virtual environment: see above, and see that the disk has room"
    set -- "$1" "$1/venv/bin/python"
    [ "$runtime" != tensorrt ] || require_tensorrt "$2"
    set -- "$@" -r "$1/edgedet-bundle/requirements.txt"
    [ "$runtime" = tensorrt ] || set -- "$@" -r "$1/edgedet-bundle/requirements-$runtime.txt"
    [ -z "$serve" ] || set -- "$@" -r "$1/edgedet-bundle/requirements-serve.txt"
    [ "$offline" = online ] || set -- "$@" --no-index --find-links "$1/edgedet-bundle/wheels"
    where=$1 made=$2
    shift 2
    said=$where/pip.log
    "$made" -m pip install --quiet --disable-pip-version-check "$@" >"$said" 2>&1 ||
        die "what edgedet needs cannot be installed ($(tail -n 1 "$said")): a bundle made with --wheels brings it along"
    "$made" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        "$where"/edgedet-bundle/wheels/edgedet-*.whl >"$said" 2>&1 || die "edgedet cannot be installed ($(tail -n 1 "$said"))"
    rm "$said"
    # They name the folder that is renamed; the launcher stands in for them.
    find "$where/venv/bin" -type f -exec rm -f {} +
    cat >"$where/edgedet" <<'LAUNCHER'
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/venv/bin/python" -m edgedet "$@"
LAUNCHER
    chmod 755 "$where/edgedet"
}

# On the last line, so that a script of which only a part arrived does nothing.
main "$@" </dev/null

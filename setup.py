"""Builds cpool._core from csrc/. Everything else about the package is in pyproject.toml.

Environment variables:
    CPOOL_DEBUG=1           no optimization, assertions on
    CPOOL_SANITIZE=LIST     address,undefined or thread, as the compiler's -fsanitize takes it
    CPOOL_COVERAGE=1        line coverage, for gcov
    CPOOL_WERROR=1          warnings are errors
    CPOOL_PORTABLE=1        plain POSIX: no epoll, pidfd, memfd, eventfd or F_SETSIG

On Windows nothing is built: there the package uses the standard library's pool.
"""

import gzip
import os
import sys
import tarfile
import zipfile
from glob import glob
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist
from setuptools.errors import CCompilerError


def is_on(switch):
    return os.environ.get(switch, "0") not in ("", "0")


class BuildExtension(build_ext):
    """Compiles everything each time: old object files may be from a build with other settings.

    A virtual environment has no headers that we need. Without the name of its folder in every
    command, a cache of objects finds those of another environment without reading all headers.
    """

    def finalize_options(self):
        super().finalize_options()
        self.force = True
        if sys.prefix != sys.base_prefix:
            unused = os.path.join(sys.exec_prefix, "include")
            self.include_dirs = [path for path in self.include_dirs if path != unused]

    def build_extensions(self):
        if can_build(self.compiler, BIND_NOW):
            for extension in self.extensions:
                extension.extra_link_args.append(BIND_NOW)
        if not is_for_tests and can_build(self.compiler, LINK_TIME):
            for extension in self.extensions:
                extension.extra_compile_args.append(LINK_TIME)
                extension.extra_link_args += ["-O2", LINK_TIME]
        super().build_extensions()


# Inline functions across files: the code that runs for each task is in many small files.
LINK_TIME = "-flto=auto"

# Look up all functions of other libraries when the module is loaded: once for all, where each
# worker would look up those that it calls, and copy the pages with their addresses.
BIND_NOW = "-Wl,-z,now"


def can_build(compiler, flag):
    """Do the compiler and the linker know this flag?"""
    with TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write("int probe(void) { return 0; }\n")
        try:
            objects = compiler.compile([source], folder, extra_postargs=[flag])
            compiler.link_shared_object(
                objects, os.path.join(folder, "probe.so"), extra_postargs=[flag]
            )
        except CCompilerError:
            return False
    return True


# Each new interpreter reads this file: with CPOOL_INSTALL=1 it installs cpool at its start.
PTH = (
    'import os; os.environ.get("CPOOL_INSTALL", "0") not in ("", "0")'
    ' and __import__("cpool._program.startup")\n'
)


class BuildWithPth(build):
    """Adds cpool.pth beside the package."""

    def run(self):
        super().run()
        with open(os.path.join(self.build_lib, "cpool.pth"), "w", encoding="utf-8") as file:
            file.write(PTH)


class EditableWithPth(editable_wheel):
    """Adds cpool.pth to the wheel of an editable installation, which has no build_lib."""

    def run(self):
        super().run()
        for path in glob(os.path.join(self.dist_dir, "*.whl")):
            with zipfile.ZipFile(path, "a") as wheel:
                wheel.writestr("cpool.pth", PTH)


class ReproducibleSdist(sdist):
    """Makes an archive that depends on the files only: not on who builds it, where or when."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar" or root_dir is not None:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        path = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", 9, file, mtime=ARCHIVE_TIME) as zipped,
            tarfile.open(mode="w", fileobj=zipped, format=tarfile.PAX_FORMAT) as archive,
        ):
            for folder, folders, names in os.walk(base_dir):
                folders.sort()
                for name in sorted(names):
                    archive.add(os.path.join(folder, name), filter=as_anybodys)
        return path


# The time of all files in the archive. Zip files cannot have times before 1980.
ARCHIVE_TIME = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))


def as_anybodys(member):
    """Remove the owner and the time from a member of an archive."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = ARCHIVE_TIME
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


compile_flags = ["-std=c11", "-O2", "-fvisibility=hidden", "-fno-strict-aliasing"]
compile_flags += ["-Wall", "-Wextra", "-Wshadow"]
link_flags = ["-lpthread"]
macros = [("_GNU_SOURCE", None)]

is_for_tests = any(is_on(f"CPOOL_{name}") for name in ("DEBUG", "SANITIZE", "COVERAGE"))

if is_on("CPOOL_DEBUG"):
    compile_flags += ["-O0", "-g3", "-UNDEBUG"]
if sanitizers := os.environ.get("CPOOL_SANITIZE"):
    sanitize = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    compile_flags += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", *sanitize]
    link_flags += sanitize
if is_on("CPOOL_COVERAGE"):
    compile_flags += ["-O0", "--coverage"]
    link_flags += ["--coverage"]
if is_on("CPOOL_WERROR"):
    compile_flags += ["-Werror"]
if is_on("CPOOL_PORTABLE"):
    macros += [("CP_PORTABLE", "1")]

core = Extension(
    "cpool._core",
    sources=sorted(glob("csrc/*/*/*.c")),
    depends=sorted(glob("csrc/*/*/*.h")),
    include_dirs=["csrc", "csrc/core", "csrc/py"],
    define_macros=macros,
    extra_compile_args=compile_flags,
    extra_link_args=link_flags,
)
setup(
    cmdclass={
        "build": BuildWithPth,
        "build_ext": BuildExtension,
        "editable_wheel": EditableWithPth,
        "sdist": ReproducibleSdist,
    },
    ext_modules=[] if sys.platform == "win32" else [core],
)

"""Package metadata comes from settings.ini, which nbdev reads too."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def requirements(key):
    return shlex.split(settings.get(key, ""))


lib = settings["lib_path"]
extras = {name: requirements(f"{name}_requirements") for name in ("hub", "lora", "dev", "peers")}
setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    keywords=settings["keywords"],
    python_requires=f">={settings['min_python']}",
    # data/ stays at the top of the repository and travels in the wheel as rankbench/_data.
    packages=[*find_packages(include=[lib, f"{lib}.*"]), f"{lib}._data"],
    package_dir={f"{lib}._data": "data"},
    package_data={
        f"{lib}._data": ["*.bib", "recipes/*.yaml", "capstones/*.yaml", "papers/*.csv"],
        f"{lib}.training": ["*.html"],
    },
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": requirements("console_scripts")},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)

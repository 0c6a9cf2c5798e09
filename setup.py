"""The packages of a distribution; everything else stands in setup.cfg.

The bundle's folder lies at the top of the repository, as the model zoo has it. In a distribution it is the data of a
package ``cps4_monai.bundle``, so that every kind of installation (``--user``, ``--target``, a zip of wheels) brings it.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cps4_monai", "cps4_monai.*"]), "cps4_monai.bundle"],
    package_dir={"cps4_monai.bundle": "bundle"},
)

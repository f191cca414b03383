# Spack's recipe. `spack repo add packaging/spack`, then `spack install py-betterbox` (docs/install.md).
from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyBetterbox(PythonPackage):
    """Python objects served on a bus: call one, call all, or spread a call's items over them. A scheduler and workers in C++
    deal in ranges of items and run code in processes of the user's own Python."""

    pypi = "betterbox/betterbox-0.1.0.tar.gz"

    license("Apache-2.0")

    # A version has the sum of its sdist here once it is released. Until then: `spack dev-build py-betterbox@main`, in the tree.
    version("main", branch="main")

    variant("mpi", default=False, description="Communicators of mpi4py for ranks= (the carrier itself is built where it runs)")
    variant("numpy", default=True, description="Items and results that are arrays")

    depends_on("cxx", type="build")
    depends_on("python@3.10:", type=("build", "run"))
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("py-scikit-build-core@0.11:", type="build")
    depends_on("py-pybind11@2.10:", type="build")
    depends_on("cereal", type="build")
    depends_on("cli11", type="build")
    depends_on("rapidjson", type="build")
    depends_on("libzmq@4.3.4: +libsodium", type=("build", "link"))
    depends_on("spdlog", type=("build", "link"))
    depends_on("py-cloudpickle@2.2:", type=("build", "run"))
    depends_on("py-numpy@1.24:", when="+numpy", type="run")
    depends_on("mpi", when="+mpi", type="run")
    depends_on("py-mpi4py", when="+mpi", type="run")

    # C++20: ranges and span.
    conflicts("%gcc@:10")

    import_modules = ["betterbox"]

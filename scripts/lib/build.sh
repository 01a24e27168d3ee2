# shellcheck shell=sh
# What the project needs and how it is built, for scripts/demo and scripts/test. Source after lib/apt.sh; POSIX sh.
#
#   need_build_packages    installs what the library, its tools and examples are built from
#   need_test_packages     installs what the tests need besides
#   build_preset PRESET [TARGET...]  configures (once) and builds build/PRESET of the source tree $top; quiet unless it
#                          fails

need_build_packages() {
    apt_need gcc libc6-dev cmake ninja-build pkg-config zlib1g-dev libssl-dev libmicrohttpd-dev libibverbs-dev librdmacm-dev ibverbs-providers \
        libucx-dev libcmocka-dev libopenblas-serial-dev dataset-fashion-mnist \
        python3
}

need_test_packages() {
    apt_need clang libclang-rt-dev g++ iproute2 nftables procps rdma-core ibverbs-utils rdmacm-utils perftest ucx-utils
}

build_preset() {
    build_dir=$top/build/$1 build_log=$top/build/$1.log
    mkdir -p "$top/build"
    if [ ! -f "$build_dir/build.ninja" ]; then
        (cd "$top" && cmake --preset "$1") >"$build_log" 2>&1 || { cat "$build_log" >&2; return 1; }
    fi
    shift
    cmake --build "$build_dir" ${1+--target "$@"} >"$build_log" 2>&1 || { cat "$build_log" >&2; return 1; }
}

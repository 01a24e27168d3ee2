#!/bin/sh
# Installs into a folder and builds the first program against it. Usage: test_package.sh SOURCE BUILD
set -eu
source=$1 build=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
prefix=$dir/usr
cmake --install "$build" --prefix "$prefix" >"$dir/install.log"
lib=$(dirname "$(find "$prefix" -name weir.pc)")/..
export PKG_CONFIG_PATH="$lib/pkgconfig" LD_LIBRARY_PATH="$lib"
cd "$dir"

# Run by hand it is a job of one rank, whatever this test was started in.
expect_sum() { [ "$(env -u RANK -u WORLD_SIZE "$@")" = "0 1 2 3" ] || { echo "FAILED: $*" >&2; exit 1; }; }

echo "- pkg-config, shared"
pc() { pkg-config --define-variable=prefix="$prefix" "$@" weir; }
# shellcheck disable=SC2046 # lists of options
cc "$source/examples/first/first.c" $(pc --cflags --libs) -o shared
expect_sum ./shared
[ "$(pc --modversion)" = "$("$prefix/bin/weir" --version | sed 's/.* //')" ]

echo "- pkg-config, static"
cc "$source/examples/first/first.c" $(pc --cflags) "$lib/libweir.a" $(pc --static --libs | sed 's/-lweir//') -o static
expect_sum ./static

echo "- CMake"
cat >CMakeLists.txt <<TXT
cmake_minimum_required(VERSION 3.20)
project(user LANGUAGES C)
find_package(weir 0.1 REQUIRED)
add_executable(user $source/examples/first/first.c)
target_link_libraries(user PRIVATE weir::weir)
TXT
cmake -G Ninja -S . -B user -DCMAKE_PREFIX_PATH="$prefix" >cmake.log && cmake --build user >>cmake.log
expect_sum user/user

echo "- only weir_* is exported"
exported=$(nm -D --defined-only "$lib/libweir.so" | awk '$2 != "A" && $3 !~ /^weir_/ { print $3 }')
[ -z "$exported" ] || { echo "FAILED: exported: $exported" >&2; exit 1; }
echo PASSED

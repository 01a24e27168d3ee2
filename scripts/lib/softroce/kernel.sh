# shellcheck shell=bash
# The guest's kernel: the distribution's own package, unpacked into the user's cache and cut down to what is needed.
# Source after apt.sh. Needs SR_LIB (this folder) and SR_CACHE; sets SR_KERNEL, the directory that holds
#   vmlinux (or bzImage), initramfs-*.cpio, bin/busybox, modules/lib/modules/VERSION
# What is made there is moved into place when it is complete. SR_WORK is what an interrupted run has to remove.

SR_MODULES=(virtio_pci virtio_console 9p 9pnet_virtio overlay dummy veth sch_netem
    crc32_generic rdma_rxe ib_uverbs rdma_ucm ib_umad)
# What stays of the module tree for modprobe in the guest.
SR_KEEP=(net fs/9p fs/netfs fs/fscache fs/overlayfs fs/configfs crypto lib drivers/virtio drivers/infiniband/core
    drivers/infiniband/sw drivers/infiniband/ulp drivers/net/dummy.ko drivers/net/veth.ko drivers/char/virtio_console.ko
    drivers/char/hw_random)

# An unsigned number of $3 bytes at offset $2 of file $1 (the host and the boot header are both little-endian).
sr_number() { od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# Prints the decompressor for the magic bytes (hex) of a payload.
sr_decompressor() {
    case $1 in
    fd377a585a00*) echo "xz -dc --single-stream" ;;
    28b52ffd*) echo "zstd -dcq" ;;
    1f8b*) echo "gzip -dcq" ;;
    02214c18* | 04224d18*) echo "lz4 -dcq" ;;
    *) return 1 ;;
    esac
}

# Takes the ELF image out of a bzImage: the boot protocol's header says where the compressed payload lies. The payload
# ends with its own length, which some decompressors remark upon: what counts is whether an ELF file came out.
sr_extract_vmlinux() {
    local start length magic tool
    start=$((($(sr_number "$1" 497 1) + 1) * 512 + $(sr_number "$1" 584 4)))
    length=$(sr_number "$1" 588 4)
    magic=$(od -An -t x1 -j $start -N 8 "$1" | tr -d ' \n')
    tool=$(sr_decompressor "$magic") && command -v "${tool%% *}" >/dev/null || return 1
    # shellcheck disable=SC2086 # a command and its options
    tail -c +$((start + 1)) "$1" | head -c "$length" | $tool >"$2" 2>/dev/null
    [ "$(od -An -t x1 -N 4 "$2" | tr -d ' ')" = 7f454c46 ] || { rm -f "$2"; return 1; }
}

# The packages to fetch, by distribution.
sr_packages() {
    local id
    id=$(. /etc/os-release && echo " $ID ${ID_LIKE-} ")
    case $id in
    *" ubuntu "*)
        local image version
        image=$(apt_head linux-image-generic) && version=${image#linux-image-} || return 1
        echo "$image linux-modules-$version linux-modules-extra-$version busybox-static"
        ;;
    *" debian "*) echo "$(apt_head linux-image-amd64) busybox-static" ;;
    *) return 1 ;;
    esac
}

# Cuts the unpacked tree $1 down to $2/lib/modules/VERSION, uncompressed, with an index for modprobe.
sr_keep_modules() {
    local version=$3 from to part file
    from=$1/lib/modules/$version
    [ -d "$from" ] || from=$1/usr/lib/modules/$version
    to=$2/lib/modules/$version
    for part in "${SR_KEEP[@]}"; do
        for file in "$from/kernel/$part"*; do
            [ -e "$file" ] || continue
            part=$(dirname "${file#"$from/"}")
            mkdir -p "$to/$part" && mv "$file" "$to/$part/" || return 1
        done
    done
    mv "$from"/modules.builtin* "$from"/modules.order "$to" 2>/dev/null
    find "$to" -name '*.ko.xz' -exec xz -d {} + || return 1
    if [ -n "$(find "$to" -name '*.ko.zst' -print -quit)" ]; then
        command -v zstd >/dev/null || apt_need zstd || return 1
        find "$to" -name '*.ko.zst' -exec zstd -dq --rm {} + || return 1
    fi
    "$4" depmod -b "$2" "$version"
}

# Fetches and unpacks into $SR_CACHE/kernel-VERSION.
sr_kernel_fetch() {
    local packages image version deb work
    packages=$(sr_packages) || { sr_say "no kernel package is known for this distribution"; return 1; }
    sr_say "fetching $packages"
    rm -rf "$SR_CACHE"/.new-*
    work=$(mktemp -d "$SR_CACHE/.new-XXXXXX") && SR_WORK=$work || return 1
    # shellcheck disable=SC2086 # a list of package names
    (cd "$work" && apt_fetch $packages) || return 1
    for deb in "$work"/*.deb; do dpkg -x "$deb" "$work/tree" || return 1; done
    image=$(echo "$work"/tree/boot/vmlinuz-*)
    version=${image##*/vmlinuz-}
    mkdir -p "$work/new/bin"
    cp "$(find "$work/tree" -path '*bin/busybox' -print -quit)" "$work/new/bin/busybox" || return 1
    sr_extract_vmlinux "$image" "$work/new/vmlinux" || cp "$image" "$work/new/bzImage" || return 1
    sr_keep_modules "$work/tree" "$work/new/modules" "$version" "$work/new/bin/busybox" || return 1
    mv -T "$work/new" "$SR_CACHE/kernel-$version" && rm -rf "$work"
}

# The newest kernel of the cache.
sr_kernel_cached() {
    SR_KERNEL=$(find "$SR_CACHE" -maxdepth 1 -name 'kernel-*' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$SR_KERNEL" ]
}

sr_kernel() {
    sr_kernel_cached && return 0
    mkdir -p "$SR_CACHE" || { sr_say "set XDG_CACHE_HOME to a folder that you may write to"; return 1; }
    exec 9>"$SR_CACHE/lock" && flock 9 || return 1
    sr_kernel_cached || { sr_kernel_fetch && sr_kernel_cached; }
    local rc=$?
    exec 9>&-
    return $rc
}

# Writes the modules to load, dependencies first, into directory $1, and their order into $1/order.
sr_stage_modules() {
    local base module file
    base=$(echo "$SR_KERNEL"/modules/lib/modules/*)
    for module in "${SR_MODULES[@]}"; do
        # modules.dep lists the deepest dependency last.
        sed -n "s|^\([^:]*/$module\.ko\): *\(.*\)|\1 \2|p" "$base/modules.dep" |
            awk '{ for (i = NF; i > 0; i--) print $i }'
    done | awk '!seen[$0]++' >"$1/list"
    while read -r file; do
        cp "$base/$file" "$1/${file##*/}" && echo "${file##*/}" >>"$1/order" || return 1
    done <"$1/list"
    rm "$1/list"
}

# Sets SR_INITRAMFS; makes it when this kernel has none for the present init and module list.
sr_initramfs() {
    local work sum tool
    sum=$( (cat "$SR_LIB/init"; echo "${SR_MODULES[*]}") | cksum | cut -d ' ' -f 1)
    SR_INITRAMFS=$SR_KERNEL/initramfs-$sum.cpio
    [ ! -e "$SR_INITRAMFS" ] || return 0
    work=$(mktemp -d "$SR_KERNEL/.new-XXXXXX") && SR_WORK=$work || return 1
    mkdir -p "$work"/tree/{bin,modules,proc,sys,dev,lower,upper,root}
    cp "$SR_KERNEL/bin/busybox" "$work/tree/bin/" && cp "$SR_LIB/init" "$work/tree/init" || return 1
    chmod 755 "$work/tree/init"
    for tool in cat insmod ip ln mkdir mkfifo mount switch_root usleep; do
        ln -s busybox "$work/tree/bin/$tool"
    done
    sr_stage_modules "$work/tree/modules" || return 1
    (cd "$work/tree" && find . | "$SR_KERNEL/bin/busybox" cpio -o -H newc 2>/dev/null >"$work/cpio") || return 1
    mv "$work/cpio" "$SR_INITRAMFS" && rm -rf "$work"
}

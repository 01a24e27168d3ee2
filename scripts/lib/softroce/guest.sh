# shellcheck shell=bash
# Boots the guest, brings COMMAND's output here as it is written, and ends the guest. Source after kernel.sh.
# Needs the options that scripts/softroce parses (SR_*); sr_guest COMMAND... returns COMMAND's exit status, 124 when the
# time limit passed, 125 when the guest failed.

SR_KVM_LIMIT=20            # seconds until the first sign of life with KVM
SR_TCG_LIMITS=(90 180 240) # the same under emulation, which takes 2 s on an idle host; a boot may stall, so try again
SR_START_LIMIT=120         # seconds from there to COMMAND's start

sr_quote() { printf "'%s' " "${1//\'/\'\\\'\'}"; }

# The names of the environment variables that COMMAND gets.
sr_env_names() {
    compgen -e | grep -E '^(WEIR_|UCX_|IBV|RDMAV_|RDMA_|MLX[45]_|LC_)' |
        grep -v '^WEIR_SOFTROCE_NODE'
    printf '%s\n' PATH HOME USER LANG TERM TMPDIR LD_LIBRARY_PATH PYTHONPATH PYTHONUNBUFFERED CI \
        ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS LSAN_OPTIONS LLVM_PROFILE_FILE GCOV_PREFIX GCOV_PREFIX_STRIP \
        "${SR_ENV[@]}"
}

# The file that the guest's shell runs: environment, working directory, COMMAND.
sr_write_command() {
    local name
    for name in $(sr_env_names | sort -u); do
        [ -z "${!name+x}" ] || echo "export $name=$(sr_quote "${!name}")"
    done
    [ "$SR_NODES" -lt 1 ] || echo "export WEIR_SOFTROCE_NODE0=10.77.0.1"
    [ "$SR_NODES" -lt 2 ] || echo "export WEIR_SOFTROCE_NODE1=10.77.0.2"
    echo "export WEIR_SOFTROCE=guest"
    echo "cd $(sr_quote "$PWD") || exit 125"
    printf 'exec '
    for name in "$@"; do sr_quote "$name"; done
    echo
}

sr_write_config() {
    local i
    echo "NODES=$SR_NODES MTU=$SR_MTU LOSS='$SR_LOSS' RW_COUNT=${#SR_RW[@]}"
    echo "TTY_SIZE='${SR_TTY:+$(stty size)}'"
    echo "MODULES=$(sr_quote "$(echo "$SR_KERNEL"/modules/lib/modules/*)")"
    for i in "${!SR_RW[@]}"; do echo "RW_$i=$(sr_quote "${SR_RW[$i]}")"; done
}

sr_run_dir() {
    SR_RUN=$(mktemp -d "${TMPDIR:-/tmp}/weir-softroce-XXXXXX") || return 1
    mkfifo "$SR_RUN/out" "$SR_RUN/err" "$SR_RUN/ctl" && mkdir "$SR_RUN/share" || return 1
    cp "$SR_LIB/stage2" "$SR_LIB/net.sh" "$SR_RUN/share/" || return 1
    sr_write_command "$@" >"$SR_RUN/share/command"
    sr_write_config >"$SR_RUN/share/config"
}

# The qemu command line in SR_QEMU; $1 is kvm or tcg. q35 without what the guest has no use for; it keeps the ACPI timer,
# by which the kernel calibrates the TSC when the host is too busy for the PIT to do (microvm has none, and hangs there).
sr_qemu_args() {
    # shellcheck disable=SC2054 # qemu's own commas
    local image=$SR_KERNEL/vmlinux run=${SR_RUN//,/,,} i
    [ -e "$image" ] || image=$SR_KERNEL/bzImage
    SR_QEMU=(qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
        -machine q35,hpet=off,sata=off,smbus=off,usb=off,vmport=off -smp "$SR_CPUS" -m "$SR_MEMORY"
        -kernel "$image" -initrd "$SR_INITRAMFS"
        -append "console=ttyS0 quiet mitigations=off nokaslr panic=-1 oops=panic audit=0 init_on_alloc=0 random.trust_cpu=on tsc=reliable no_timer_check numa=fake=$SR_NUMA"
        -chardev "file,id=console,path=$run/console" -serial chardev:console
        -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
        -device virtio-9p-pci,fsdev=root,mount_tag=root
        -fsdev "local,id=run,path=$run/share,security_model=none,readonly=on"
        -device virtio-9p-pci,fsdev=run,mount_tag=run
        -device virtio-serial-pci)
    for i in ctl out err; do
        SR_QEMU+=(-chardev "file,id=$i,path=$run/$i" -device "virtserialport,chardev=$i,name=$i")
    done
    [ -z "$SR_TTY" ] || SR_QEMU+=(-chardev stdio,id=tty,signal=off -device virtconsole,chardev=tty)
    for i in "${!SR_RW[@]}"; do
        SR_QEMU+=(-fsdev "local,id=rw$i,path=${SR_RW[$i]//,/,,},security_model=none,multidevs=remap"
            -device "virtio-9p-pci,fsdev=rw$i,mount_tag=rw$i")
    done
    case $1 in
    kvm) SR_QEMU+=(-accel kvm -cpu host) ;;
    *) SR_QEMU+=(-accel tcg,thread=multi,tb-size=512 -cpu max) ;;
    esac
}

# Passes input on; when nobody takes it any more (COMMAND | head), says so on the control channel.
sr_pass_on() {
    cat || { echo pipe 1<>"$SR_RUN/ctl"; } 2>/dev/null
}

# Starts qemu and the two that pass its output on. Each FIFO is held open for reading and writing until qemu has
# inherited it, so that no open blocks, and end of file on descriptor 5 means that qemu has gone. setpriv: qemu dies
# with this shell, whatever kills it.
sr_start() {
    sr_qemu_args "$1"
    exec 6<>"$SR_RUN/ctl" 7<>"$SR_RUN/out" 8<>"$SR_RUN/err" 5<"$SR_RUN/ctl"
    exec 3<"$SR_RUN/out" 4<"$SR_RUN/err"
    sr_pass_on <&3 3<&- 4<&- 5<&- 6>&- 7>&- 8>&- &
    SR_CAT_OUT=$!
    sr_pass_on <&4 >&2 3<&- 4<&- 5<&- 6>&- 7>&- 8>&- &
    SR_CAT_ERR=$!
    if [ -n "$SR_TTY" ]; then
        SR_TTY=$(stty -g)
        setpriv --pdeathsig KILL "${SR_QEMU[@]}" <&0 2>"$SR_RUN/qemu" 3<&- 4<&- 5<&- &
    else
        setpriv --pdeathsig KILL "${SR_QEMU[@]}" </dev/null >"$SR_RUN/qemu" 2>&1 3<&- 4<&- 5<&- &
    fi
    SR_PID=$!
    disown $SR_PID # so that bash does not report how it ended
    exec 3<&- 4<&- 6>&- 7>&- 8>&-
}

# Ends qemu; what it had passed on is printed before this returns.
sr_stop() {
    [ -n "${SR_PID-}" ] || return 0
    [ "$SR_PID" = gone ] || kill -KILL "$SR_PID" 2>/dev/null
    wait "$SR_CAT_OUT" "$SR_CAT_ERR"
    [ -z "$SR_TTY" ] || stty "$SR_TTY"
    SR_PID=
    exec 5<&-
}

sr_cleanup() {
    sr_stop
    rm -rf "${SR_RUN-}" "${SR_WORK-}"
    SR_RUN='' SR_WORK=''
}

sr_signal() {
    trap '' INT TERM HUP
    sr_cleanup
    trap - EXIT
    exit "$1"
}

# Reads one message of the guest: sets SR_WORD and SR_VALUE. Fails with 1 when the guest has gone, 2 when $1 seconds
# have passed.
sr_message() {
    local rc
    SR_WORD='' SR_VALUE=''
    read -r -t "$1" -u 5 SR_WORD SR_VALUE && return 0
    rc=$?
    [ $rc -le 128 ] || return 2
    SR_PID=gone
    return 1
}

# What qemu and the guest's kernel said last, for a failure.
sr_diagnosis() {
    sed 's/^/  qemu: /' "$SR_RUN/qemu" >&2
    [ ! -e "$SR_RUN/console" ] || tail -n 150 "$SR_RUN/console" | tr -d '\r' | sed 's/^/  guest: /' >&2
}

# Boots with accelerator $1 until COMMAND starts; $2 is how long the first sign of life may take. Fails with 1 when there
# was none, 2 when the guest could not be set up.
sr_boot() {
    sr_start "$1"
    sr_message "$2" && [ "$SR_WORD" = up ] || return 1
    sr_message $SR_START_LIMIT || return 2
    [ "$SR_WORD" = start ] || { sr_say "${SR_VALUE:-unexpected message from the guest}"; return 2; }
}

# A KVM device that opens may still not run a guest (nested, without the hardware's help): the first boot finds out, and
# the answer holds until the host is booted anew.
sr_kvm_usable() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
    [ "$(cat "$SR_CACHE/kvm-unusable" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]
}

sr_boot_any() {
    local limit rc
    if [ "$SR_ACCEL" != tcg ] && { [ "$SR_ACCEL" = kvm ] || sr_kvm_usable; }; then
        sr_boot kvm $SR_KVM_LIMIT
        rc=$?
        [ $rc = 1 ] && [ "$SR_ACCEL" != kvm ] || return $rc
        cat /proc/sys/kernel/random/boot_id >"$SR_CACHE/kvm-unusable"
        sr_say "KVM does not run a guest here; emulating"
        sr_stop
    fi
    for limit in "${SR_TCG_LIMITS[@]}"; do
        sr_boot tcg "$limit"
        rc=$?
        [ $rc = 1 ] || return $rc
        sr_stop
    done
    return 1
}

# Waits for COMMAND's status. The time limit counts from COMMAND's start.
sr_wait() {
    sr_message "$SR_TIME_LIMIT"
    case $?$SR_WORD in
    0rc) return "$SR_VALUE" ;;
    0pipe) return 141 ;;
    2*)
        sr_stop
        sr_say "time limit of $SR_TIME_LIMIT s passed; guest ended"
        return 124
        ;;
    esac
    sr_stop
    sr_say "the guest died while COMMAND ran"
    sr_diagnosis
    return 125
}

sr_guest() {
    local rc
    trap sr_cleanup EXIT
    trap 'sr_signal 130' INT
    trap 'sr_signal 143' TERM
    trap 'sr_signal 129' HUP
    sr_guest_needs && sr_kernel && sr_initramfs || return 125
    sr_run_dir "$@" || { sr_say "cannot make a directory in ${TMPDIR:-/tmp}"; return 125; }
    if sr_boot_any; then
        sr_wait
        rc=$?
    else
        sr_say "the guest did not come up"
        sr_stop
        sr_diagnosis
        rc=125
    fi
    sr_stop
    [ -z "$SR_VERBOSE" ] || sr_diagnosis
    sr_cleanup
    return $rc
}

# Installs what the guest's user space and qemu need.
sr_guest_needs() {
    local need=()
    command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
    command -v ip >/dev/null && command -v rdma >/dev/null && command -v tc >/dev/null || need+=(iproute2)
    command -v xz >/dev/null || need+=(xz-utils)
    [ -e /usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so ] ||
        compgen -G '/usr/lib/*/libibverbs/librxe*' >/dev/null || need+=(ibverbs-providers)
    [ ${#need[@]} = 0 ] || apt_need "${need[@]}"
}

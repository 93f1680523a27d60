#!/usr/bin/env bash
# Gives the network namespace it runs in two addresses that are not loopback, then runs its arguments.
set -euo pipefail
ip link set lo up
ip link add wg0 type veth peer name wg1
ip addr add 192.0.2.1/24 dev wg0
# Without duplicate address detection the address can be used at once.
ip addr add 2001:db8::1/64 dev wg0 nodad
ip link set wg0 up
ip link set wg1 up
exec "$@"

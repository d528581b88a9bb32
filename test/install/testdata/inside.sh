#!/bin/bash
# Runs in the installed machine, as root, under its systemd: install the package, then do what deploy/README.md says.
set -euo pipefail
say() { echo "== $*"; }
trap 'code=$?; [ $code = 0 ] || { journalctl --no-pager -n 60 -u "assay-*" -u swtpm || true; }; echo "exit $code" >/install/status; systemctl poweroff --no-block' EXIT

say install
dpkg -i /install/assay.deb
id assay
id assay-agent
test -f /usr/share/bash-completion/completions/assay
assay version
systemd-analyze verify /usr/lib/systemd/system/assay-*.service
! systemctl is-enabled --quiet assay-server || { echo "enabled without being asked"; exit 1; }

say server
ip link set lo up
assay server init --data /var/lib/assay --name localhost
chown -R assay:assay /var/lib/assay
systemctl enable --now assay-server
for i in $(seq 50); do
	if ss -ltn | grep -q :8443; then break; fi
	sleep 0.2
done
systemctl is-active assay-server

say tpm
systemd-run --quiet --unit swtpm --property RuntimeDirectory=swtpm --property StateDirectory=swtpm \
	swtpm socket --tpm2 --tpmstate dir=/var/lib/swtpm --server type=unixio,path=/run/swtpm/tpm,mode=0666 --flags not-need-init,startup-clear
for i in $(seq 50); do [ -S /run/swtpm/tpm ] && break; sleep 0.1; done
chmod 755 /run/swtpm
assay doctor --tpm-device unix:/run/swtpm/tpm -o json >/tmp/doctor || true
ek=$(grep -oE 'sha256:[0-9a-f]{64}' /tmp/doctor | head -n 1)

say policy
assay ref capture machine --dir /usr/bin --out /tmp/set.json
assay ref apply /tmp/set.json
cat >/tmp/policy.yaml <<EOF
apiVersion: assay/v1
kind: Policy
metadata: {name: machine}
selector: 'true'
every: 5s
valid_for: 30s
allow: [software-tpm, simulated]
formats:
  tpm:
    ek_pins: [$ek]
  plan:
    tests:
      - {name: programs, dir: /usr/bin, reference: machine}
EOF
assay policy apply /tmp/policy.yaml

say agent
assay node token create --name here >/tmp/token
assay agent join --server https://localhost:8443 --tpm-device unix:/run/swtpm/tpm --join-token /tmp/token --data /var/lib/assay/agent
chown -R assay-agent:assay-agent /var/lib/assay/agent
systemctl enable --now assay-agent
trusted=no
for i in $(seq 100); do
	if assay node show here >/tmp/node; then trusted=yes; break; fi
	sleep 0.3
done
cat /tmp/node
[ $trusted = yes ]

say change
echo '#!/bin/sh' >/usr/bin/backdoor
for i in $(seq 100); do
	code=0; assay node show here >/tmp/node || code=$?
	[ $code = 2 ] && break
	sleep 0.3
done
cat /tmp/node
[ $code = 2 ]
grep -q /usr/bin/backdoor /tmp/node
rm /usr/bin/backdoor

say enclave
# The same node with its plans in the enclave: the root with the keeper, the monitor under a user of its own.
systemctl stop assay-agent
assay seal key --out /tmp/owner
cat >/etc/assay/keeper.json <<EOF
{"version": 1, "launch": "userspace", "tpm": "unix:/run/swtpm/tpm", "uid": $(id -u assay-monitor),
 "owner": "$(awk '{printf "%s\\n", $0}' /tmp/owner/owner.pub)", "recovery": "$(cat /tmp/owner/recovery.pub)",
 "clients": [{"name": "monitor", "image": "sha256:$(sha256sum /usr/lib/assay/assay-monitor | cut -d' ' -f1)", "svn": 1}]}
EOF
mkdir -p /etc/systemd/system/assay-keeper.service.d
cat >/etc/systemd/system/assay-keeper.service.d/owner.conf <<EOF
[Service]
ExecStart=
ExecStart=/usr/lib/assay/assay-keeper run --owner-key /etc/assay/owner.key
EOF
install -m 0600 /tmp/owner/owner.key /etc/assay/owner.key
systemctl daemon-reload
assay seal init
systemctl start assay-keeper
for i in $(seq 50); do
	if assay seal status -o json >/tmp/seal && grep -q os-protected /tmp/seal; then break; fi
	sleep 0.2
done
cat /tmp/seal
signer=$(assay enclave inspect /usr/lib/assay/assay-measuring.sig -o json | grep -m1 -ioE '"mrsigner": *"[^"]*"' | grep -oE '(sha256:)?[0-9a-f]{64}')
mrenclave=$(assay enclave inspect /usr/lib/assay/assay-measuring.sig -o json | grep -m1 -ioE '"mrenclave": *"[^"]*"' | grep -oE '(sha256:)?[0-9a-f]{64}')
cat >/etc/assay/monitor.json <<EOF
{"version": 1, "uids": [$(id -u assay-agent), 0], "root": {"keeper": "/run/assay-keeper/keeper.sock"}, "svn": 1,
 "own": ["sha256:${signer#sha256:}"], "modes": ["process"], "cache": "/var/cache/assay-monitor"}
EOF
systemctl start assay-monitor
for i in $(seq 50); do
	if assay enclave monitor status; then break; fi
	sleep 0.2
done
cat >/etc/assay/agent.yaml <<EOF
enclave: {monitor: /run/assay-monitor/monitor.sock, image: /usr/lib/assay/assay-measuring.enclave, sigstruct: /usr/lib/assay/assay-measuring.sig}
EOF
cat >/tmp/policy.yaml <<EOF
apiVersion: assay/v1
kind: Policy
metadata: {name: machine}
selector: 'true'
every: 5s
valid_for: 30s
allow: [software-tpm, test-key]
links:
  - {from: plan, to: enclave, kind: key-in-report}
formats:
  tpm:
    ek_pins: [$ek]
  enclave:
    mrenclave: sha256:${mrenclave#sha256:}
    modes: [process]
    launches: [userspace]
    roots: [os-protected]
    accept_same_os: true
  plan:
    tests:
      - {name: programs, dir: /usr/bin, reference: machine}
EOF
assay policy apply /tmp/policy.yaml
systemctl start assay-agent
trusted=no
for i in $(seq 150); do
	if assay node show here >/tmp/node && grep -q os-protected /tmp/node; then trusted=yes; break; fi
	sleep 0.4
done
cat /tmp/node
[ $trusted = yes ]
[ "$(stat -c %U /proc/$(systemctl show -P MainPID assay-monitor))" = assay-monitor ]

say upgrade
before=$(systemctl show -P MainPID assay-agent)
dpkg -i /install/assay.deb
systemctl is-active assay-server assay-agent
[ "$before" != "$(systemctl show -P MainPID assay-agent)" ]

say remove
dpkg -r assay
! systemctl is-active --quiet assay-agent
dpkg -P assay
test -d /var/lib/assay
! test -e /usr/bin/assay
say done

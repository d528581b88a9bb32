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

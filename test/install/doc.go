// Package install installs the Debian package into a clean Debian root, boots that root's systemd in a container without a
// network, and does what deploy/README.md says: server, agent with a software TPM, verdict, change, upgrade, removal. The
// units really run, with all their restrictions.
//
// It doesn't test other distributions, a real TPM, or the units under SELinux or AppArmor.
package install

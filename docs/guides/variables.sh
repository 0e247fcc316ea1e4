# Variables that the guides' examples use, from the Weir that runs. Source it in
# the checkout:  . docs/guides/variables.sh
# WEIR_STATE_DIR, if it is set, names the Weir meant.
WEIR=${WEIR:-bin/weir}
POLICY=${POLICY:-$HOME/weir-policy}
WORK=${WORK:-$(mktemp -d)} # what the examples write
TMPDIR=${TMPDIR:-$WORK}
export WEIR POLICY WORK TMPDIR
URL=$("$WEIR" status -o json | sed 's/.*"ingress":{"http":"\([^"]*\)".*/\1/')
case $URL in
http*) ;;
*)
  echo "variables.sh: Weir is not running: bin/weir up --detach --dir $POLICY" >&2
  unset URL
  return 1
  ;;
esac
API_KEY=$("$WEIR" credentials -o json | sed 's/.*"apiKey":"\([^"]*\)".*/\1/')
TOKEN=$("$WEIR" credentials -o json | sed 's/.*"token":"\([^"]*\)".*/\1/')
export URL API_KEY TOKEN

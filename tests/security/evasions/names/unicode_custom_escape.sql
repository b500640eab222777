-- mechanism: names
-- expect: function=encrypted_secrets.secrets_getter(uuid,text,text), owner=00000000-0000-4000-8000-00000000000a, names=alpha, operation=read

-- @run
SELECT encrypted_secrets.U&"secrets#005fgetter" UESCAPE '#' ('00000000-0000-4000-8000-00000000000a', U&'!0061lpha' UESCAPE '!')

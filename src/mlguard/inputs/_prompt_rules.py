"""What ``PromptHeuristic`` looks for: words by what they mean, and which meanings close to each other are a finding.

A word that ends in ``*`` stands for all words that begin like that. Words are folded before they are compared: no case,
no accents. Scripts that put no spaces between words are searched for the words within.
"""

from typing import NamedTuple

#: The words of each meaning, in English first, then in other languages.
MEANINGS: dict[str, str] = {
    "drop": """
        ignor* disregard* forget* forgot* overrid* bypass* neglect* discard* skip void voided cancel* revok*
        supersed* drop dropped aside abandon outdated obsolete suspended scrap overwrite nullif* ignorier* missacht*
        vergiss vergesst vergessen verwirf oublie oubliez oublier ignorez abstraction ignora ignore ignorad olvida
        olvide olvidad omiso descarta dimentica dimenticare trascura esquec* desconsider* negeer* vergeet zignoruj*
        zapomnij pomin pomij игнориру* проигнорируй* забудь* забуд* отбрось* ignorera glom bortse unut 忽略 无视
        無視 忘记 忘掉 忘れ 무시 잊어 잊고 تجاهل انس अनदेखा भूल
    """,
    "before": """
        previous* prior above earlier preced* initial* original* before former foregoing existing current beginning
        top far vorherig* bisherig* vorig* obig* vorher zuvor ursprunglich* precedent* anterieur* dessus avant
        anterior* previa* previo* arriba antes inicial* precedenti precedente sopra prima vorige eerdere voorgaande
        bovenstaande poprzedni* wczesniejsz* powyzsz* предыдущ* прежн* предшеств* tidigare foregaende ovanstaende
        onceki yukaridaki 之前 以前 先前 前面 上面 上述 これまで 以上 前の 이전 앞의 위의 السابق* اعلاه पिछल* पहल*
    """,
    "rules": """
        instruction* rule rules guideline* directive* prompt prompts constraint* restriction* polic* programming
        directions commands orders anweisung* regel* vorgabe* richtlini* instruktion* befehl* consigne* regle*
        directiv* instruccion* regla* istruzion* regol* instruco* instrucao* regra* instructies regels instrukcj*
        zasad* polecen* инструкци* правил* указани* команд* instruktioner reglerna talimat* kural* komut* 指令 指示
        规则 規則 提示 ルール プロンプト 지시 규칙 프롬프트 명령 تعليمات* التعليمات القواعد निर्देश* नियम*
    """,
    "your": """
        your yours ur deine* dein ihre tes vos ta votre tu tus su sus tuo tuoi tua tue seu seus suas sua je jouw uw
        swoj* twoj* свой свои твои твой тебе sin ditt dina din senin sistem* 你的 您的 あなたの 너의 당신의 الخاص
        अपन*
    """,
    "told": """
        told ordered asked programmed gesagt aufgetragen dit demande dicho ordenado detto dado dali дали сказали
    """,
    "everything": """
        everything anything whatever all alles tout todo tutto tudo wszystko всё все allt hersey 所有 一切 すべて
        모든
    """,
    "not": """
        not no don dont never stop zero without nicht keine keinerlei ne pas sans sin senza non nao sem nie bez не
        без
    """,
    "follow": """
        follow* obey* heed attention apply adhere comply binding befolg* beachte suis suivez compte sigas segui*
        hagas
    """,
    "new": """
        new next following updated real actual mine neue nouvelles nueva nuevas nuevo nuove novas nowe новые 新的
    """,
    "reveal": """
        reveal* show print output display repeat* recite tell give leak dump disclos* translate summar* encode write
        spell quote list expose log send share copy paste rephrase paraphrase gib zeig* nenne verrate wiederhol*
        montre* affiche* revele* donne dis muestra* revela* dime ensena mostra* dimmi mostre diga toon laat zien
        pokaz* wyswietl ujawnij покажи* выведи* раскрой* напечатай visa avsloja goster* yazdir 输出 显示 顯示 告诉
        透露 打印 表示 教えて 出力 보여 출력 알려 اعرض اظهر اكشف दिखा* बता*
    """,
    "what": "what which how was welche welches quel quelles cual cuales qual quali какой какие 什么 什麼 何",
    "system": """
        system systemprompt* pre preprompt* systeme sistema systemowy* системн* systeem* sistem 系统 系統 システム
        시스템 النظام सिस्टम
    """,
    "prompt": """
        prompt prompts promt message messages mensaje messaggio mensagem instruction* text istem* промпт* 提示词
        提示 提示詞 プロンプト 프롬프트 موجه प्रॉम्प्ट
    """,
    "hidden": """
        hidden secret* internal confidential initial exact full entire geheim* versteckt* secrete* cache* secreta*
        oculta* segret* nascost* секретн* скрыт* 隐藏 秘密
    """,
    "verbatim": "verbatim exactly literally letter wortlich unchanged",
    "words": "words word text everything content contents characters lines context conversation",
    "password": "password* passwort credentials apikey contrasena senha haslo пароль 密码 パスワード 비밀번호",
    "pretend": """
        pretend* act acting roleplay* imagine simulat* impersonat* become character persona play fiction scenario
        embody speak answer respond stell spiel imagina finge actua fais fingi imita agisci aja finja
    """,
    "now": """
        now henceforth onwards anymore longer jetzt nun desormais maintenant partir ahora adesso ora agora nu teraz
        теперь artik 现在 現在 从现在 이제 今から
    """,
    "ai": """
        ai ais llm llms gpt chatgpt gemini claude copilot assistant* chatbot* bot model models agent agents ki ia
        asistente ии 人工智能 助手 yapay asystent
    """,
    "limits": """
        limit limits limitation* restriction* rules rule filter* ethic* moral* polic* censor* guardrail* boundar*
        safet* constraint* warning* disclaimer* alignment law laws grenzen regeln einschrankung* limite limites
        restriccion* filtri limiti beperking* ograniczen* огранич* правил* begransning* sinir* 限制 制限 제한 قيود
    """,
    "unrestricted": """
        unrestricted unfiltered uncensored unlimited jailbroken jailbreak unbound unchained unlocked amoral
        unaligned unethical freed uncensor*
    """,
    "refuse": "refus* decline deny apolog* weiger* verweiger* refuses niegas rifiut* recus*",
    "mode": "mode modus modo режим",
    "special": """
        developer debug god admin administrator opposite maintenance unfiltered jailbreak sudo root dan evil
        override
    """,
    "never": "never nie jamais nunca mai никогда 从不 always must",
    "break": "break stay keep remain",
    "character": "character persona role",
    "hide": "tell mention inform notify reveal disclose",
    "user": "user users reader readers human humans",
    "addressed": "note attention message instruction* important hidden addressed notice reminder ps",
    "toward": "to for any whoever every",
    "reads": "read reads reading process* summaris* summariz* handl* review*",
    "must": "must should shall required agree agrees obliged has instead",
    "send": "send forward post upload exfiltrat* append transmit open visit fetch curl wget",
    "private": """
        conversation history messages password* secrets mails emails keys notes data credentials chat context
    """,
    "url": "http https www",
    "decode": "decod* decrypt* base64 rot13 hex hexadecimal morse binary ascii convert reverse backwards unscramble",
    "execute": "follow* obey execute* carry perform comply act do does run answer",
    "end": "end ends ended over ending finished",
    "block": "document context input prompt text message quote output conversation quoted tool question",
    "role": "role",
    "speaker": "system assistant developer",
    "grant": """
        approve approved full verified trusted administrator admin grant granted permission disable disabled
        unlocked authorized authorised clearance
    """,
    "safety": """
        safety content filter filters policy guardrails check checks authentication alignment restrictions
        censorship
    """,
    "off": "off disable disabled removed suspended deactivate* remove turn lifted",
}


class Rule(NamedTuple):
    """Meanings that say something when they are close to each other.

    Attributes:
        name: What it is called in the log.
        weight: How much it says by itself, above 0 and below 1.
        within: In how many words all of them are.
        meanings: Which.
    """

    name: str
    weight: float
    within: int
    meanings: tuple[str, ...]


RULES = (
    Rule("override", 0.9, 8, ("drop", "before", "rules")),
    Rule("override", 0.7, 6, ("drop", "your", "rules")),
    Rule("override", 0.7, 8, ("drop", "everything", "told")),
    Rule("override", 0.6, 8, ("not", "follow", "before", "rules")),
    Rule("override", 0.6, 8, ("not", "told", "before", "your")),
    Rule("override", 0.7, 6, ("drop", "system", "prompt")),
    Rule("override", 0.5, 7, ("not", "follow", "rules")),
    Rule("override", 0.4, 7, ("drop", "everything", "rules")),
    Rule("override", 0.3, 5, ("drop", "everything", "before")),
    Rule("new rules", 0.3, 2, ("new", "rules")),
    Rule("unrestricted", 0.6, 10, ("pretend", "ai", "not", "limits")),
    Rule("unrestricted", 0.6, 10, ("now", "not", "limits", "ai")),
    Rule("unrestricted", 0.5, 6, ("ai", "not", "limits")),
    Rule("unrestricted", 0.4, 6, ("pretend", "not", "limits")),
    Rule("unrestricted", 0.4, 10, ("unrestricted", "ai")),
    Rule("unrestricted", 0.5, 10, ("unrestricted", "now")),
    Rule("unrestricted", 0.5, 10, ("unrestricted", "pretend")),
    Rule("never refuse", 0.5, 10, ("never", "refuse", "pretend")),
    Rule("never refuse", 0.4, 5, ("never", "refuse")),
    Rule("never refuse", 0.4, 5, ("not", "refuse")),
    Rule("mode", 0.5, 2, ("special", "mode")),
    Rule("safety off", 0.5, 5, ("safety", "off")),
    Rule("character", 0.2, 3, ("break", "character")),
    Rule("leak", 0.7, 7, ("reveal", "system", "prompt")),
    Rule("leak", 0.6, 6, ("reveal", "your", "rules")),
    Rule("leak", 0.6, 6, ("reveal", "hidden", "rules")),
    Rule("leak", 0.5, 4, ("your", "system", "prompt")),
    Rule("leak", 0.6, 7, ("reveal", "words", "before")),
    Rule("leak", 0.5, 10, ("reveal", "verbatim", "rules")),
    Rule("leak", 0.4, 7, ("verbatim", "rules")),
    Rule("leak", 0.5, 5, ("reveal", "hidden", "password")),
    Rule("hide from user", 0.5, 6, ("not", "hide", "user")),
    Rule("addressed to a model", 0.5, 4, ("addressed", "toward", "ai")),
    Rule("addressed to a model", 0.5, 8, ("ai", "reads", "must")),
    Rule("addressed to a model", 0.3, 5, ("addressed", "ai")),
    Rule("addressed to a model", 0.3, 5, ("ai", "reads")),
    Rule("order to a model", 0.3, 5, ("ai", "must")),
    Rule("send away", 0.4, 12, ("send", "private", "url")),
    Rule("decode and do", 0.4, 10, ("decode", "execute")),
    Rule("end of data", 0.35, 4, ("end", "block")),
    Rule("forged role", 0.6, 2, ("role", "speaker")),
    Rule("granted", 0.3, 8, ("grant", "ai")),
)

#: English words that people disguise: spelt wrongly, backwards or in rot13.
DISGUISED = """
    ignore disregard forget override bypass previous prior above earlier instructions instruction rules guidelines
    directives prompt system reveal print repeat hidden secret password pretend restrictions unrestricted limits never
    refuse your everything show without tell output act answer
"""
